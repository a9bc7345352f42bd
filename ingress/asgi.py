"""The application for any ASGI server: `uvicorn ingress.asgi:app --workers 4`.

`python -m ingress` is the way to run it; this way has uvicorn's own options, and lacks the limits of
`ingress.connections` unless it is told `--http ingress.direct:DirectConnection`. Refuses to be imported with wrong
settings: one line on standard error.
"""

from __future__ import annotations

import sys

from ingress.app import Ingress
from ingress.settings import IngressSettings
from shared.settings import SettingError, load
from shared.telemetry import configure

try:
    _settings = load(IngressSettings)
except SettingError as error:
    sys.stderr.write(f"ingress: {error}\n")
    raise SystemExit(3) from None  # 3 tells uvicorn's parent process that a restart would not help

configure(_settings.log_level)
app = Ingress(_settings)
