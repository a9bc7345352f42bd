"""`python -m ingress`: read the settings, take the port, serve until SIGTERM.

Guarantees: after SIGTERM or Ctrl-C nothing new is accepted, every request whose body is complete is answered, the
inbox is flushed, and the exit code is 0. Refuses: wrong settings and a port in use, with one line and exit code 2.
"""

from __future__ import annotations

import resource
import signal
import socket
import sys
from typing import TYPE_CHECKING, Final, NoReturn

from uvicorn import Config, Server
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from ingress.direct import DirectConnection
from ingress.settings import IngressSettings
from shared.settings import SettingError, load
from shared.telemetry import configure

if TYPE_CHECKING:
    from types import FrameType

GRACE_SECONDS: Final = 5
"""After SIGTERM, for requests whose body still arrives; complete ones are answered within a second anyway."""
KEEP_ALIVE_SECONDS: Final = 75
"""Idle connections: longer than a proxy's own (nginx 60 s), so that the proxy, which knows, is the one to close."""

START_SECONDS: Final = 20
"""A worker process that is silent for so long is killed and replaced. It is silent while it starts, which on a busy
machine took longer than uvicorn's 5 s: every one was killed before it could serve."""


def main() -> None:
    """Run the ingress."""
    try:
        settings = load(IngressSettings)
        listening = listen(settings.host, settings.port)
    except SettingError as error:
        sys.stderr.write(f"ingress: {error}\n")
        raise SystemExit(2) from None
    configure(settings.log_level)
    allow_many_connections()
    # uvicorn raises the signal once more when it has stopped: that ends the process, with success.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    config = Config(
        "ingress.asgi:app",
        interface="asgi3",
        loop="uvloop",
        http=DirectConnection,
        ws="none",
        lifespan="on",
        workers=settings.workers,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_worker_healthcheck=START_SECONDS,
    )
    if settings.workers > 1:
        supervisor = Multiprocess(config, sockets=[listening])
        supervisor.run()
        if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
            raise SystemExit(1)  # the worker has said why
    else:
        Server(config).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """Take the port.

    It listens at once: while the processes that serve it start, clients wait for them instead of being refused.

    Raises:
        SettingError: the address is not ours or the port is in use.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while")[0]
        raise SettingError(
            f"cannot listen on {host} port {port}: {reason}; stop what uses it, or set INGRESS_PORT"
        ) from None


def allow_many_connections() -> None:
    """Raise the soft limit of open files to the hard one: it is often 1024, and a socket is a file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def leave(number: int, frame: FrameType | None) -> NoReturn:
    """End the process with success."""
    del number, frame
    raise SystemExit(0)


if __name__ == "__main__":
    main()
