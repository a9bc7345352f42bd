"""The only package that speaks to Postgres: SQL as SQL, functions as plain verbs.

- `connect`, `pooler`, `migrate`, `sql`: connections, the check for a pooler, migrations, named queries.
- `entry`, `events`, `rejected`: an event is stored once, or rejected and later parsed again.
- `deliveries`, `serial`, `recovery`, `limits`, `manual`: open work, in order of subjects, found again when lost, held
  back, and changed by hand.
- `session`, `exchange`: the connection that handlers write through.
- `catalogue`: what handler workers have announced. `tallies`: what was done, by the minute.
- `tenants`, `refusals`: the registry, and why a change of it is refused. `audit`: who changed what.
- `people`, `sign_in_attempts`: who may use the console, and that nobody guesses their passwords.
- `jobs`, `incidents`, `alerts`: what people asked for, what failed for one cause, who is told of it.
- `event_history`, `event_search`, `stats`, `server`, `figures`: what people and Prometheus read.
- `partitions`: the tables of the days. `identity`, `grants`: which database this is, and the rights of its roles.
"""
