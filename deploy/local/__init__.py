"""The embedded stack: Postgres and Valkey from wheels, and the supervisor that keeps everything running."""
