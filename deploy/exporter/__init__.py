"""Figures for Prometheus: `python -m deploy.exporter`.

- `__main__`: reads the settings, starts the sources, serves `/metrics` and `/wanted`.
- `figures`: every figure with its type, labels and meaning, as in deploy/METRICS.md.
- `source`: reads one server again and again, and keeps what it said last.
- `redis_figures`, `postgres_figures`: what is read there.
- `wanted`: how many processes the work that waits wants, for an autoscaler, as JSON on `/wanted`.
- `settings`.
"""
