"""Which servers a command uses, and the command `pipeline env` that prints them.

Guarantees: each value comes from its environment variable, else from the stack that runs in `PIPELINE_HOME`; nothing
is looked up before it is asked for. Refuses: guessing (`SettingError` says to start a stack or set the variable).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.output import AsJson, emit
from deploy.local.settings import GivenSettings, StackSettings
from deploy.local.state import Stack, running_stack
from shared.settings import SettingError, fernet_keys, load

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The servers of this command; a property raises `SettingError` when nothing tells its value."""

    given: GivenSettings
    stack: Stack | None

    @property
    def database_url(self) -> str:
        """Return the URL of Postgres."""
        return self.given.database_url or self._running("DATABASE_URL").database_url

    @property
    def redis_url(self) -> str:
        """Return the URL of Redis."""
        return self.given.redis_url or self._running("REDIS_URL").redis_url

    @property
    def secrets_key(self) -> tuple[str, ...]:
        """Return the Fernet keys: the first encrypts, all decrypt."""
        return self.given.secrets_key or fernet_keys(self._running("SECRETS_KEY").secrets_key)

    @property
    def ingress_url(self) -> str:
        """Return where the ingress listens, with no slash at the end."""
        return self.given.ingress_url or self._running("INGRESS_URL").ingress_url

    def _running(self, variable: str) -> Stack:
        if self.stack is None:
            raise SettingError(f"no stack runs here: start one with `make run`, or set {variable}")
        return self.stack


def find_context(environ: Mapping[str, str] | None = None) -> Context:
    """Look at the environment and at the running stack."""
    return Context(given=load(GivenSettings, environ), stack=running_stack(load(StackSettings, environ).home))


def env(
    *,
    secrets: Annotated[bool, typer.Option("--secrets", help="Print SECRETS_KEY too, for workers run by hand.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the servers that the other commands use, ready for `export $(pipeline env)`.

    An environment variable wins, then the stack that runs in PIPELINE_HOME.
    """
    context = find_context()
    values = {"DATABASE_URL": context.database_url, "REDIS_URL": context.redis_url}
    if secrets:
        values["SECRETS_KEY"] = ",".join(context.secrets_key)
    if as_json:
        emit([values], as_json=True, columns=[])
        return
    for variable, value in values.items():
        print(f"{variable}={value}")
