"""The peer: FastAPI, `delay()` and Celery, written as their tutorials have it."""
