"""Figures for Prometheus: `python -m deploy.exporter`.

- `__main__`: reads the settings, starts the sources, serves `/metrics`.
- `figures`: every figure with its type, labels and meaning, as in deploy/METRICS.md.
- `source`: reads one server again and again, and keeps what it said last.
- `redis_figures`, `postgres_figures`: what is read there.
- `settings`.
"""
