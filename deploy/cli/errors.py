"""Errors that a person can mend, in one line each.

Every error of these families ends a command with one line and a status other than 0, with no traceback and no password.
Any other is a fault of ours and keeps its traceback.
"""

import re
from typing import Final

import psycopg
import redis

from deploy.local.state import StackError
from deploy.signatures.secret_text import SecretTextError
from shared.identity import ForeignRedisError
from shared.registry import RegistryError
from shared.settings import SettingError
from workers.store.connect import UnfitDatabaseError
from workers.store.migrate import MigrationError
from workers.store.refusals import RefusedError

_PASSWORD: Final = re.compile(r"(?<=://)[^/@\s]*@")


class CommandError(Exception):
    """What a command refuses; the text is one line that says what to do."""


def explain(error: Exception) -> str | None:
    """Return the line for a person, or None for what only a traceback explains."""
    match error:
        case CommandError() | SettingError() | RegistryError() | RefusedError() | StackError():
            line = str(error)
        case SecretTextError() | MigrationError() | UnfitDatabaseError() | ForeignRedisError():
            line = str(error)
        case psycopg.errors.UndefinedTable():
            line = "this database has no tables of the pipeline yet: run `pipeline migrate`"
        case psycopg.errors.InsufficientPrivilege():
            line = f"Postgres refused: {_first_line(error)}: the role of DATABASE_URL may not do this"
        case psycopg.errors.ReadOnlySqlTransaction():
            line = f"Postgres refused: {_first_line(error)}: DATABASE_URL names a standby or a read-only database"
        case psycopg.OperationalError(sqlstate=str()):
            line = f"Postgres refused: {_first_line(error)}"
        case psycopg.OperationalError():
            line = f"Postgres cannot be reached: {_first_line(error)} - is it running, and is DATABASE_URL right?"
        case redis.ConnectionError() | redis.TimeoutError():
            line = f"Redis cannot be reached: {_first_line(error)} - is it running, and is REDIS_URL right?"
        case redis.ResponseError():
            line = f"Redis refused: {_first_line(error)}"
        case _:
            return None
    return _PASSWORD.sub("", " ".join(line.split()))


def _first_line(error: Exception) -> str:
    """Return the first line of a server's message, of several hosts one for each; the rest is advice for others."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    hosts = [line.partition("connection to server ")[2] for line in lines if line.startswith("- host: ")]
    return "; ".join(hosts) if any(hosts) else lines[0].rstrip(".")
