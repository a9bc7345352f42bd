"""What runs in the local stack, and the order in which it is stopped.

Guarantees: every service gets the same servers and key; passwords are in its environment only. Refuses nothing.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Final
from urllib.error import URLError
from urllib.request import urlopen

from celery import Celery
from kombu.exceptions import OperationalError

from deploy.flower.settings import FlowerSettings
from deploy.local.errors import StackError
from deploy.local.service import Service
from ingress.settings import IngressSettings
from shared.settings import load
from workers.broker import broker_url

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deploy.local.servers import Server

STAGES: Final = (("beat", "flower"), ("ingress",), ("ingest", "handlers", "housekeeping"), ("postgres", "valkey"))
"""Stopped one stage after the other: who makes work first, who keeps it last. 13 s in the worst case."""
TRIAL_SECONDS: Final = 60.0


def check_settings(environ: Mapping[str, str]) -> None:
    """See whether the services would start, before any does.

    Raises:
        SettingError: a variable of the ingress or of Flower is wrong.
        StackError: the workers refuse their settings or the handlers that HANDLERS names.
    """
    load(IngressSettings, environ)
    load(FlowerSettings, environ)
    # in a process of its own: handlers are the team's code
    trial = [sys.executable, "-c", "import workers.app"]
    try:
        outcome = subprocess.run(
            trial, env=dict(environ), stdin=subprocess.DEVNULL, capture_output=True, timeout=TRIAL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise StackError(f"the modules in HANDLERS are not imported after {TRIAL_SECONDS:.0f} s") from None
    if outcome.returncode:
        lines = outcome.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise StackError(f"the workers would not start: {lines[-1].strip()}")


def server_service(server: Server, environ: Mapping[str, str]) -> Service:
    """Return an embedded server as a service."""
    # SIGQUIT ends Postgres at once; it recovers from its log at the next start
    hurry = signal.SIGQUIT if server.name == "postgres" else signal.SIGKILL
    return Service(
        name=server.name,
        argv=server.argv,
        environ=environ,
        is_ready=server.is_ready,
        stop_signal=server.stop_signal,
        hurry_signal=hurry,
        patience=3.0,
        uid=server.uid,
    )


def pipeline_services(
    environ: Mapping[str, str], *, ingress_port: int, flower_port: int, ingest_slots: int, handler_slots: int
) -> list[Service]:
    """Return the pipeline's own services.

    Args:
        environ: whole environment of each, with DATABASE_URL, REDIS_URL and SECRETS_KEY.
        ingress_port: on the loopback.
        flower_port: on the loopback.
        ingest_slots: processes that store events.
        handler_slots: processes that run handlers.
    """
    ingress = {"INGRESS_HOST": "127.0.0.1", "INGRESS_PORT": str(ingress_port)}
    flower = {"FLOWER_ADDRESS": "127.0.0.1", "FLOWER_PORT": str(flower_port)}
    return [
        Service(
            name="ingress",
            argv=[sys.executable, "-m", "ingress"],
            environ={**environ, **ingress},
            is_ready=_answers(f"http://127.0.0.1:{ingress_port}/readyz"),
            patience=2.5,
        ),
        # Flower shows what drains have stored and which handlers fail; ticks would drown both
        _worker("ingest", ingest_slots, environ, "--task-events"),
        _worker("handlers", handler_slots, environ, "--task-events"),
        _worker("housekeeping", 1, environ),
        Service(
            name="beat",
            argv=[sys.executable, "-m", "celery", "-A", "workers.app", "beat"],
            environ=environ,
            is_ready=lambda: True,  # it serves nothing; that it lives is all there is to see
            settle=2.0,
            patience=1.0,
        ),
        Service(
            name="flower",
            argv=[sys.executable, "-m", "deploy.flower"],
            environ={**environ, **flower},
            is_ready=_answers(f"http://127.0.0.1:{flower_port}/healthcheck"),
            patience=1.0,
        ),
    ]


def _worker(name: str, slots: int, environ: Mapping[str, str], *options: str) -> Service:
    node = f"{name}@{socket.gethostname()}"
    return Service(
        name=name,
        argv=[
            *(sys.executable, "-m", "celery", "-A", "workers.app", "worker"),
            *("--queues", name, "--hostname", node, "--concurrency", str(slots), "--prefetch-multiplier", "1"),
            *("--without-gossip", "--without-mingle", *options),
        ],
        environ=environ,
        is_ready=lambda: _pongs(environ["REDIS_URL"], node),
        hurry_signal=signal.SIGQUIT,  # Celery's cold shutdown: what runs is given up and comes again
        patience=4.5,
    )


def _answers(url: str) -> Callable[[], bool]:
    """Return a probe that asks for status 200."""

    def probe() -> bool:
        try:
            with urlopen(url, timeout=2) as answer:  # noqa: S310 - always http on the loopback
                return bool(answer.status == 200)  # noqa: PLR2004 - HTTP OK
        except (URLError, OSError):
            return False

    return probe


def _pongs(redis_url: str, node: str) -> bool:
    """Say whether a worker takes messages: its main process answers a ping between two of them."""
    try:
        with Celery("probe", broker=broker_url(redis_url), set_as_current=False) as probe:
            probe.conf.broker_transport_options = {"socket_timeout": 2, "socket_connect_timeout": 2}
            return bool(probe.control.ping(destination=[node], timeout=1.0))
    except (OperationalError, OSError):
        return False
