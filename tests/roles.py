"""The three roles of deploy/ROLES.md in a database of their own, with the rights that `pipeline grants` prints."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

PIPELINE = str(Path(sys.executable).with_name("pipeline"))


@dataclass(frozen=True, kw_only=True)
class Roles:
    """URLs of one database by role, and the schema of the pipeline's tables; empty for `public`."""

    admin: str
    owner: str
    application: str
    handlers: str
    schema: str

    def name(self, role: str) -> str:
        """Return the name of the owner's, the application's or the handlers' role."""
        return str(urlsplit(getattr(self, role)).username)

    def pipeline(self, *arguments: str, role: str = "owner") -> str:
        """Run the command `pipeline` as a role; return what it printed."""
        environ = os.environ | {"DATABASE_URL": getattr(self, role), "DATABASE_SCHEMA": self.schema}
        command = [PIPELINE, *arguments]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout


@contextmanager
def parted_roles(server_url: str, *, schema: str) -> Iterator[Roles]:
    """Make a database, migrated by its owner, in which handlers have a schema of their own; drop all of it in the end.

    Args:
        server_url: of a superuser.
        schema: of the pipeline's tables; empty for `public`.
    """
    number = uuid.uuid4().hex[:8]
    database = f"roles_{number}"
    names = {role: f"{role}_{number}" for role in ("owner", "application", "handlers")}
    parts = urlsplit(server_url)

    def url(role: str) -> str:
        return f"postgresql://{names[role]}:test@{parts.hostname}:{parts.port}/{database}"

    with psycopg.connect(server_url, autocommit=True) as server:
        for name in names.values():
            server.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'test'").format(sql.Identifier(name)))
        server.execute(f"CREATE DATABASE {database}")
        try:
            roles = Roles(
                admin=server_url.removesuffix(parts.path) + f"/{database}",
                **{role: url(role) for role in names},
                schema=schema,
            )
            with psycopg.connect(roles.admin, autocommit=True) as admin:
                if schema:
                    admin.execute(f"CREATE SCHEMA {schema} AUTHORIZATION {names['owner']}")
                else:
                    admin.execute(f"GRANT CREATE ON SCHEMA public TO {names['owner']}")
                admin.execute(f"CREATE SCHEMA team AUTHORIZATION {names['handlers']}")
                admin.execute(f"ALTER ROLE {names['handlers']} SET search_path = team, public")
            roles.pipeline("migrate")
            grants = roles.pipeline(*("grants", "--application", names["application"], "--handlers", names["handlers"]))
            with psycopg.connect(roles.owner, autocommit=True) as owner:
                owner.execute(grants.encode())
            yield roles
        finally:
            server.execute(f"DROP DATABASE {database} WITH (FORCE)")
            for name in names.values():
                server.execute(f"DROP ROLE {name}")
