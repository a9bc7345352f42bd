"""The data folder of a stack, and `secrets.json` in it: the key of the secrets, the servers' passwords and ports.

The file is made once and readable by its owner only. A server keeps its port, and so its URL, from run to run, unless
another program has taken the port meanwhile.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from cryptography.fernet import Fernet

from deploy.local.servers import free_port, is_free
from deploy.local.state import StackError, write_private

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Passwords and ports of the embedded servers, and the Fernet key made for this stack."""

    secrets_key: str
    postgres_password: str
    postgres_port: int
    valkey_password: str
    valkey_port: int


def make_data_dir(home: Path) -> Path:
    """Make the data folder and return that of the logs.

    Raises:
        StackError: it cannot be written.
    """
    logs = home / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
        logs.chmod(0o700)
        (home / "lock").touch()
    except OSError as error:
        raise StackError(
            f"{home} cannot be written ({error.strerror}): set PIPELINE_HOME to a folder of yours"
        ) from None
    return logs


def read_credentials(home: Path) -> Credentials:
    """Read the credentials below `home`, or make them; change a port that another program uses.

    Raises:
        StackError: the file cannot be read, or is missing beside data.
    """
    path = home / "secrets.json"
    try:
        found = Credentials(**json.loads(path.read_text()))
    except FileNotFoundError:
        if (home / "postgres").exists():
            raise StackError(f"{path} is missing, and with it the password of the data in {home}: restore it") from None
        found = Credentials(
            secrets_key=Fernet.generate_key().decode(),
            postgres_password=secrets.token_urlsafe(24),
            postgres_port=free_port(),
            valkey_password=secrets.token_urlsafe(24),
            valkey_port=free_port(),
        )
    except (OSError, ValueError, TypeError) as error:
        raise StackError(f"{path} cannot be read ({error}): restore it, or set another PIPELINE_HOME") from None
    if not is_free(found.postgres_port):
        found = replace(found, postgres_port=free_port())
    if not is_free(found.valkey_port):
        found = replace(found, valkey_port=free_port())
    write_private(path, json.dumps(asdict(found), indent=2))
    return found
