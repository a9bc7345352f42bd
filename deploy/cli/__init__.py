"""The command `pipeline`.

`main` lists the commands; a group of them, such as `tenants`, or a single one, such as `send`, is a module of its name.
They share `arguments` (parameters), `connections` (where the servers are), `output` (tables and JSON lines) and
`errors` (one line for what a person can mend). `signed_requests`, `load_generator` and `waiting` send and follow
events; `deploy.signatures` explains why a signature fails.
"""
