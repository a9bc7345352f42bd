"""How the pipeline is run and operated; stands on all other packages, nothing imports it.

- `cli/`: the command `pipeline`. `local/`: the stack of `make run`. `doctor/`: the checks of `pipeline doctor`.
  `signatures/`: why a signature fails.
- `health`: probes. `flower/`: Celery's monitor. `exporter/`: figures for Prometheus.
- `docker/`, `kubernetes/`, `nginx/`, `systemd/`: files to run it by, each with a README. `locks/`: pinned dependencies.
"""
