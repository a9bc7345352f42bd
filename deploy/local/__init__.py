"""The stack that `pipeline up` runs on this machine.

In reading order: `run` (one run from start to end), `services` (what runs), `servers` (the embedded Postgres and
Valkey), `supervisor` and `service` (starting, restarting and stopping), `state` (the lock and the state file),
`stale_processes` (what a killed run left), `parent_watch`, `terminal`, `settings`.
"""
