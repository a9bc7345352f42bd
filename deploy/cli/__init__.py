"""The command `pipeline`.

`main` lists the commands; a group of them (`tenants`, `endpoints`, `secrets`, `events`, `deliveries`, `handlers`) or a
single one is a module of its name. They share `arguments` (parameters), `connections` (where the servers are), `output`
(tables and JSON lines) and `errors` (one line for what a person can mend). `signed_requests`, `load_generator` and
`waiting` send and follow events; `deploy.signatures` explains why a signature fails.
"""
