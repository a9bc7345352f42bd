"""`python -m ingress`: read the settings, take the port, run uvicorn until SIGTERM.

Guarantees: after SIGTERM or Ctrl-C nothing new is accepted, every request whose body is complete is answered, the
inbox is flushed, and the exit code is 0. Wrong settings and a port in use end it with one line and exit code 2.
"""

import resource
import signal
import socket
import sys
from types import FrameType
from typing import Final

from uvicorn import Config, Server
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from ingress.settings import IngressSettings
from shared.logs import configure
from shared.settings import SettingError, load

GRACE_SECONDS: Final = 5
"""After SIGTERM, for requests whose body still arrives; complete ones are answered within a second anyway."""


def main() -> None:
    """Run the ingress."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    try:
        settings = load(IngressSettings)
        listening = listen(settings.host, settings.port)
    except SettingError as error:
        sys.stderr.write(f"ingress: {error}\n")
        raise SystemExit(2) from None
    configure(settings.log_level, settings.log_format)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the soft limit is often 1024, and a socket is a file
    config = Config(
        "ingress.asgi:app",
        interface="asgi3",
        loop="uvloop",
        http="ingress.connections:Connection",
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
        supervisor = Multiprocess(config, sockets=[listening])
        supervisor.run()
        if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
            raise SystemExit(1)  # the process has said why
    else:
        Server(config).run(sockets=[listening])


def listen(host: str, port: int, *, variable: str = "INGRESS_PORT") -> socket.socket:
    """Take the port; `::` takes IPv4 too.

    Raises:
        SettingError: the address is not ours or the port is in use.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        is_everywhere = host == "::" and socket.has_dualstack_ipv6()  # uvicorn#2945
        return socket.create_server((host, port), family=family, backlog=2048, dualstack_ipv6=is_everywhere)
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while")[0]
        raise SettingError(
            f"cannot listen on {host} port {port}: {reason}; stop what uses it, or set {variable}"
        ) from None


def _leave(_: int, __: FrameType | None) -> None:
    """End with success; uvicorn raises the signal again after its own shutdown."""
    raise SystemExit(0)


if __name__ == "__main__":
    main()
