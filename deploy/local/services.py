"""What runs in the local stack, and the order in which it is stopped.

Every service gets the same servers, and the ingress the key of the endpoints' secrets, which no handler shall see;
passwords are in their environment only.
"""

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Final
from urllib.request import ProxyHandler, build_opener

from celery import Celery
from kombu.exceptions import OperationalError

from deploy.console.settings import ConsoleSettings
from deploy.exporter.settings import ExporterSettings
from deploy.flower.settings import FlowerSettings
from deploy.health import HEARTBEATS
from deploy.local.service import Service
from deploy.local.settings import StackSettings
from deploy.local.state import StackError
from ingress.settings import IngressSettings
from shared.settings import load
from workers.broker import broker_options, broker_tls, broker_url

CONSOLE: Final = "console"
STAGES: Final = (
    ("beat", "flower", CONSOLE, "exporter"),
    ("ingress",),
    ("ingest", "handlers", "express", "housekeeping"),
    ("postgres", "valkey"),
)
"""Stopped one stage after the other: who makes work first, who keeps it last. 13 s in the worst case."""
TRIAL_SECONDS: Final = 60.0
NOT_ON_A_LOOPBACK_PORT: Final = {"FLOWER_UNIX_SOCKET", "FLOWER_CERTFILE", "FLOWER_KEYFILE", "FLOWER_CA_CERTS"}
"""Flower's own variables with which it would not answer there in plain HTTP."""


def check_settings(environ: Mapping[str, str]) -> None:
    """Raise what would keep the services from starting: wrong settings, or handlers that are refused."""
    load(IngressSettings, environ)
    load(FlowerSettings, environ)
    load(ConsoleSettings, environ)
    load(ExporterSettings, environ)
    # in a process of its own: handlers are the team's code
    trial = [sys.executable, "-c", "from workers.app import load_handlers; load_handlers()"]
    try:
        outcome = subprocess.run(
            trial, env=dict(environ), stdin=subprocess.DEVNULL, capture_output=True, timeout=TRIAL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise StackError(f"the modules in HANDLERS are not imported after {TRIAL_SECONDS:.0f} s") from None
    if outcome.returncode:
        lines = outcome.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise StackError(f"the workers would not start: {lines[-1].strip()}")


def pipeline_services(environ: Mapping[str, str], settings: StackSettings) -> list[Service]:
    """Return the pipeline's own services; `environ` is the whole environment, servers and key included."""
    with_key = environ = {**environ, "HEARTBEAT_DIR": str(settings.home / HEARTBEATS)}
    environ = {name: value for name, value in environ.items() if name != "SECRETS_KEY"}
    ingress = {"INGRESS_HOST": "127.0.0.1", "INGRESS_PORT": str(settings.ingress_port)}
    console = {"CONSOLE_HOST": "127.0.0.1", "CONSOLE_PORT": str(settings.console_port)}
    console |= {"CONSOLE_FLOWER_URL": settings.flower_url, "INGRESS_URL": settings.ingress_url}
    flower = {"FLOWER_ADDRESS": "127.0.0.1", "FLOWER_PORT": str(settings.flower_port)}
    return [
        Service(
            name="ingress",
            argv=[sys.executable, "-m", "ingress"],
            environ={**with_key, **ingress},
            is_ready=_answers(f"{settings.ingress_url}/readyz"),
            patience=2.5,
        ),
        # Flower shows what drains have stored and which handlers fail; sweeps, one a second, send no events
        _worker("ingest", settings.ingest_workers, environ, "--task-events"),
        _worker("handlers", settings.handler_workers, environ, "--task-events", queues="express,handlers"),
        _worker("express", max(1, settings.handler_workers // 4), environ, "--task-events"),
        _worker("housekeeping", 1, environ, "--task-events"),
        Service(
            name="beat",
            argv=[sys.executable, "-m", "celery", "-q", "-A", "workers.app", "beat"],
            environ=environ,
            is_ready=lambda: True,  # it serves nothing; that it lives is all there is to see
            settle_seconds=2.0,
            patience=1.0,
        ),
        Service(
            name="flower",
            argv=[sys.executable, "-m", "deploy.flower"],
            environ={name: value for name, value in environ.items() if name not in NOT_ON_A_LOOPBACK_PORT} | flower,
            is_ready=_answers(f"{settings.flower_url}/healthcheck"),
            patience=1.0,
        ),
        Service(
            name=CONSOLE,
            argv=[sys.executable, "-m", "deploy.console"],
            environ=(with_key if load(ConsoleSettings, with_key).takes_secrets else environ) | console,
            is_ready=_answers(f"{settings.console_url}/livez"),
            patience=1.0,
        ),
        Service(
            name="exporter",
            argv=[sys.executable, "-m", "deploy.exporter"],
            environ={**environ, "EXPORTER_HOST": "127.0.0.1", "EXPORTER_PORT": str(settings.exporter_port)},
            is_ready=_answers(settings.exporter_url),
            patience=1.0,
        ),
    ]


def _worker(name: str, processes: int, environ: Mapping[str, str], *options: str, queues: str | None = None) -> Service:
    node = f"{name}@{socket.gethostname()}"
    return Service(
        name=name,
        argv=[
            *(sys.executable, "-m", "celery", "-q", "-A", "workers.app", "worker"),
            *("--queues", queues or name, "--hostname", node, "--concurrency", str(processes)),
            *("--prefetch-multiplier", "1", "--without-gossip", "--without-mingle", *options),
        ],
        environ=environ,
        is_ready=lambda: _pongs(
            environ.get("BROKER_URL") or environ["REDIS_URL"], environ.get("REDIS_PREFIX", ""), node
        ),
        kill_signal=signal.SIGQUIT,  # Celery's cold shutdown: what runs is given up and comes again
        patience=4.5,
    )


def _answers(url: str) -> Callable[[], bool]:
    """Return a probe that asks for status 200, past any `http_proxy`: that knows nothing of this machine's loopback."""
    opener = build_opener(ProxyHandler({}))

    def probe() -> bool:
        try:
            with opener.open(url, timeout=2) as answer:
                return bool(answer.status == 200)  # noqa: PLR2004 - HTTP OK
        except OSError:
            return False

    return probe


def _pongs(redis_url: str, prefix: str, node: str) -> bool:
    """Return whether a worker takes messages: its main process answers a ping between two of them."""
    try:
        with Celery("probe", broker=broker_url(redis_url), set_as_current=False) as probe:
            probe.conf.broker_use_ssl = broker_tls(redis_url) or False
            probe.conf.broker_transport_options = {
                **broker_options(redis_url, prefix),
                "socket_timeout": 2,
                "socket_connect_timeout": 2,
            }
            return bool(probe.control.ping(destination=[node], timeout=1.0))
    except (OperationalError, OSError):
        return False
