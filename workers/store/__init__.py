"""The only package that speaks to Postgres: SQL as SQL, functions as plain verbs.

- `connect`, `pooler`, `migrate`, `sql`: connections, the check for a pooler, migrations, named queries.
- `entry`, `events`, `rejected`: an event is stored once, or rejected and later parsed again.
- `deliveries`, `serial`, `recovery`, `limits`, `manual`: open work, in order of subjects, found again when lost, held
  back, and changed by hand.
- `session`, `exchange`: the connection that handlers write through.
- `tenants`, `refusals`: the registry, and why a change of it is refused.
- `event_history`, `stats`, `server`: what people read.
- `partitions`: the tables of the days.
"""
