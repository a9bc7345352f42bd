"""The application for uvicorn: `uvicorn ingress.asgi:app --http ingress.connections:Connection --workers 4`.

`python -m ingress` is the same with the settings of this project. Wrong settings, and a start without `--http`, end the
process with one line: without it, connections would have none of the limits of `ingress.connections`.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from ingress.app import make_app
from ingress.settings import IngressSettings
from shared.settings import SettingError, load
from shared.telemetry import configure


def _stop(reason: object) -> NoReturn:
    sys.stderr.write(f"ingress: {reason}\n")
    raise SystemExit(3)  # 3 tells uvicorn's parent process that a restart would not help


if "ingress.connections" not in sys.modules:  # uvicorn imports it before the application, and nothing else does
    _stop("start uvicorn with --http ingress.connections:Connection, or run python -m ingress")
try:
    _settings = load(IngressSettings)
except SettingError as error:
    _stop(error)

configure(_settings.log_level)
app = make_app(_settings)
