"""What a stack keeps between its runs, in `secrets.json`: the key of the secrets, the servers' passwords and ports.

Guarantees: made once, readable by its owner only; a server keeps its port, and so its URL, unless another program took
the port meanwhile. Refuses (`StackError`): a file that is missing beside data, or unreadable.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from cryptography.fernet import Fernet

from deploy.local.errors import StackError
from deploy.local.servers import free_port, is_free
from deploy.local.state import write_private

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Passwords of the embedded servers, their ports, and the Fernet key made for this stack."""

    secrets_key: str
    postgres_password: str
    postgres_port: int
    valkey_password: str
    valkey_port: int


def open_keep(home: Path) -> Keep:
    """Read what is kept below `home`, or make it; ports that another program uses are changed.

    Raises:
        StackError: the file is there and cannot be read.
    """
    path = home / "secrets.json"
    try:
        keep = Keep(**json.loads(path.read_text()))
    except FileNotFoundError:
        if (home / "postgres").exists():
            raise StackError(f"{path} is missing, and with it the password of the data in {home}: restore it") from None
        keep = Keep(
            secrets_key=Fernet.generate_key().decode(),
            postgres_password=secrets.token_urlsafe(24),
            postgres_port=free_port(),
            valkey_password=secrets.token_urlsafe(24),
            valkey_port=free_port(),
        )
    except (OSError, ValueError, TypeError) as error:
        raise StackError(f"{path} cannot be read ({error}): restore it, or set another PIPELINE_HOME") from None
    if not is_free(keep.postgres_port):
        keep = replace(keep, postgres_port=free_port())
    if not is_free(keep.valkey_port):
        keep = replace(keep, valkey_port=free_port())
    write_private(path, json.dumps(asdict(keep), indent=2))
    return keep
