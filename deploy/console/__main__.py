"""`python -m deploy.console`: serve the console until SIGTERM.

Wrong settings, a port in use, and a console that would be open beyond this machine end it with one line and exit
code 2.
"""

import signal
import sys
from types import FrameType
from typing import Final

import psycopg
import uvicorn

from deploy.cli.doctor import examine
from deploy.cli.errors import explain
from deploy.console.app import build, serving
from deploy.console.database import READ_SECONDS, Database
from deploy.console.doctor import Doctor
from deploy.console.rendering import environment
from deploy.console.settings import ConsoleSettings
from deploy.console.sign_in import SignIn, may_be_open
from deploy.console.visit import Console
from ingress.__main__ import listen
from shared.heartbeat import Heartbeat
from shared.logs import configure
from shared.redis_client import open_client
from shared.registry import Cipher
from shared.settings import SettingError, load
from shared.wire import Names
from workers.store.people import count_people

REDIS_SECONDS: Final = 1.0


def main() -> None:
    """Run the console."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    try:
        run(load(ConsoleSettings))
    except (SettingError, psycopg.Error) as error:
        sys.stderr.write(f"console: {explain(error) or error}\n")
        raise SystemExit(2) from None


def run(settings: ConsoleSettings) -> None:
    """Serve until the process is told to end.

    Raises:
        SettingError: it would be open to strangers, or the port is in use.
        psycopg.Error: Postgres cannot be reached, or has no tables of this version.
    """
    configure(settings.log_level, settings.log_format)
    database = Database(settings.database_url, schema=settings.database_schema)
    with database.connection(seconds=READ_SECONDS) as connection:
        is_open = may_be_open(settings, count_people(connection))
    listening = listen(settings.host, settings.port, variable="CONSOLE_PORT")
    names = Names(settings.redis_prefix)
    doctor = Doctor(lambda: examine(lambda: database.connection(seconds=READ_SECONDS), in_console=True))
    console = Console(
        settings=settings,
        sign_in=SignIn(settings, is_open=is_open),
        templates=environment(),
        names=names,
        inbox=open_client(settings.inbox_url, seconds=REDIS_SECONDS, prefix=names.prefix),
        broker=open_client(settings.broker_url, seconds=REDIS_SECONDS),
        cipher=Cipher(settings.secrets_key) if settings.takes_secrets and settings.secrets_key else None,
        environment=settings.environment,
        doctor=doctor,
    )
    heartbeat = Heartbeat(folder=settings.heartbeat_dir, name=f"console-{settings.port}", duties=["console"])
    doctor.start()
    uvicorn.Server(serving(build(console, database, heartbeat=heartbeat))).run(sockets=[listening])
    doctor.stop()


def _leave(_: int, __: FrameType | None) -> None:
    """End with success; uvicorn raises the signal again after its own shutdown."""


if __name__ == "__main__":
    main()
