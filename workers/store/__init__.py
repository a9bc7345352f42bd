"""The only package that speaks to Postgres: SQL as SQL, functions as plain verbs."""
