"""`python -m ingress`: read the settings, take the port, serve until SIGTERM.

Guarantees: after SIGTERM or Ctrl-C nothing new is accepted, every request whose body is complete is answered, the
inbox is flushed, and the exit code is 0. Refuses: wrong settings and a port in use, with one line and exit code 2.
"""

from __future__ import annotations

import resource
import signal
import socket
import sys
from typing import Final

from uvicorn import Config, Server

import ingress.app  # noqa: F401 - here, once, and not by each process
from ingress.direct import DirectConnection
from ingress.fleet import STOPS, Fleet, Member, leave
from ingress.settings import IngressSettings
from shared.settings import SettingError, load
from shared.telemetry import configure

GRACE_SECONDS: Final = 5
"""After SIGTERM, for requests whose body still arrives; complete ones are answered within a second anyway."""


def main() -> None:
    """Run the ingress."""
    for number in STOPS:
        signal.signal(number, leave)
    try:
        settings = load(IngressSettings)
        listening = listen(settings.host, settings.port)
    except SettingError as error:
        sys.stderr.write(f"ingress: {error}\n")
        raise SystemExit(2) from None
    configure(settings.log_level)
    allow_many_connections()
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
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    if settings.workers > 1:
        fleet = Fleet(lambda beat: Member(config, beat).run(sockets=[listening]), size=settings.workers)
        if not fleet.run():
            raise SystemExit(1)  # the process has said why
    else:
        Server(config).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """Take the port, when all is imported and requests can be served at once: a client never waits for a start.

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


if __name__ == "__main__":
    main()
