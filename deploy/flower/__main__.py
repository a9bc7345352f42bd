"""Starts Flower: `python -m deploy.flower`.

It keeps a bounded number of tasks in memory, is read-only (nobody stops a worker from a browser), and does not turn
events on at workers that have them off. Task arguments are ids; payloads never get here. It refuses to listen beyond
the loopback without FLOWER_USER and FLOWER_PASSWORD. Flower's `/metrics` and `/healthcheck` ask for no password even
then: keep them inside.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from deploy.flower.settings import FlowerSettings
from shared.settings import SettingError, is_loopback, load

COLUMNS = "name,args,state,exception,received,runtime"
"""Whose event it is stands beside the handler's name: what comes last is off the screen when a text is long."""
CONFIGURATION = Path(__file__).with_name("flowerconfig.py")


def command(settings: FlowerSettings) -> tuple[list[str], dict[str, str]]:
    """Return the command line, and what the environment must hold beside it.

    Raises:
        SettingError: it would listen beyond the loopback with no password.
    """
    if not is_loopback(settings.address) and not (settings.user and settings.password):
        raise SettingError(
            f"FLOWER_ADDRESS is {settings.address}: set FLOWER_USER and FLOWER_PASSWORD to listen beyond the loopback"
        )
    if any(sign in settings.user + settings.password for sign in ",\n") or ":" in settings.user:
        raise SettingError("FLOWER_USER and FLOWER_PASSWORD may hold no comma, and FLOWER_USER no colon")
    argv = [
        *(sys.executable, "-m", "celery", "-A", "workers.app", "flower"),
        f"--address={settings.address}",
        f"--port={settings.port}",
        f"--url_prefix={settings.prefix}",
        f"--max_tasks={settings.max_tasks}",
        "--max_workers=500",
        "--purge_offline_workers=60",
        "--enable_events=False",
        "--read_only=True",
        "--persistent=False",
        f"--logging={settings.log_level}",
        f"--tasks_columns={COLUMNS}",
        f"--conf={CONFIGURATION}",
    ]
    # in the environment, for other users of the machine can read a command line
    secret = {"FLOWER_BASIC_AUTH": f"{settings.user}:{settings.password}"} if settings.password else {}
    return argv, secret


def main() -> None:
    """Become Flower."""
    try:
        argv, secret = command(load(FlowerSettings))
    except SettingError as error:
        sys.exit(f"flower: {error}")
    os.environ.update(secret)
    # Flower reads each of them as a value of its own type, and ends with a traceback for an empty number
    for variable in [name for name, value in os.environ.items() if name.startswith("FLOWER_") and not value.strip()]:
        del os.environ[variable]
    os.execv(argv[0], argv)  # noqa: S606 - its own command, no shell wanted


if __name__ == "__main__":
    main()
