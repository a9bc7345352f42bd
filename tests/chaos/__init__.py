"""Nothing is lost: real processes, killed and cut off at random, and every answer compared with Postgres.

Run it with `make chaos`. It speaks HTTP, SQL, Redis, signals and the command line; it imports nothing of the pipeline
but what a team's handlers import (`team/chaos_handlers.py`, loaded by the workers only).
"""
