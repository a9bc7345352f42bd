"""People of the console: who may use it, and as what, and their sessions.

Guarantees: of passwords only hashes get here, of tokens only digests are stored; changes of people are in the audit,
without the hash; whoever is removed, disabled or given another password has no session left. A change of a role holds
from the next request on.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

from psycopg import errors
from psycopg.rows import class_row

from workers.store import audit
from workers.store.refusals import (
    BadNameError,
    BadRoleError,
    PersonExistsError,
    UnknownPersonError,
    UnknownTenantError,
)
from workers.store.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from workers.store.connect import Connection

_SQL: Final = Queries("people.sql")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,99}")

Role = Literal["viewer", "operator", "admin"]
"""What a person may do: look; change what is of tenants; change everything. Each may do what those before it may."""
ROLES: Final[tuple[Role, ...]] = get_args(Role)
SESSIONS_EACH: Final = 20
"""Sessions that a person may have; the earliest ends when there are more."""
TOKEN_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody who may use the console.

    Attributes:
        name: as the audit has it.
        role: see `Role`.
        tenants: whose things an operator may change; None for all.
    """

    name: str
    role: Role
    tenants: tuple[str, ...] | None

    def __post_init__(self) -> None:
        """Take the array of Postgres."""
        if self.tenants is not None:
            object.__setattr__(self, "tenants", tuple(self.tenants))

    def has_role(self, needed: Role) -> bool:
        """Return whether their role is this one or above it, of whatever tenants."""
        return ROLES.index(self.role) >= ROLES.index(needed)

    def may(self, needed: Role, tenant: str | None = None) -> bool:
        """Return whether they may do what needs this role.

        Args:
            needed: the least role.
            tenant: whose thing it is; None for what is of all tenants, which an operator of some may only look at.
        """
        if not self.has_role(needed):
            return False
        return needed == "viewer" or self.tenants is None or tenant in self.tenants


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonSummary:
    """A person as lists show them.

    Attributes:
        has_password: whether they can sign in by themselves, and not only through a proxy.
        disabled_at: while set, they cannot sign in.
        seen_at: of their latest request, a minute less at most; None where they have no session.
    """

    name: str
    role: Role
    tenants: list[str] | None
    has_password: bool
    created_at: datetime
    disabled_at: datetime | None
    seen_at: datetime | None


def is_name(text: str) -> bool:
    """Return whether a person could have this name, whatever somebody typed."""
    return _NAME.fullmatch(text) is not None


def add_person(
    connection: Connection,
    name: str,
    *,
    role: Role,
    tenants: Collection[str] | None = None,
    password_hash: str | None = None,
) -> None:
    """Add a person.

    Args:
        connection: in autocommit, or in a transaction of the caller's.
        name: that they sign in with, or that the proxy sends; upper and lower case differ.
        role: see `Role`.
        tenants: existing ones, of an operator; None for all.
        password_hash: None for those whom a proxy names.

    Raises:
        RefusedError: BadNameError, BadRoleError, UnknownTenantError, PersonExistsError.
    """
    if not is_name(name):
        raise BadNameError(
            f"{name!r} cannot name a user: use up to 100 letters, digits and _ . @ + -, a letter or digit first"
        )
    values = {"name": name, "role": role, "tenants": _check_tenants(connection, role, tenants)}
    if not connection.execute(_SQL["add_person"], values | {"password_hash": password_hash}).fetchone():
        raise PersonExistsError(
            f"the console has a user {name!r} already; change it with `pipeline console change-user {name}`"
        )


def change_person(connection: Connection, name: str, *, role: Role, tenants: Collection[str] | None = None) -> None:
    """Change what a person may do, from their next request on. Raises as `add_person`, and UnknownPersonError."""
    _change(connection, "change_person", name, role=role, tenants=_check_tenants(connection, role, tenants))


def set_password(connection: Connection, name: str, password_hash: str | None) -> None:
    """Give a person another password, or none, and end their sessions. Raises UnknownPersonError."""
    with connection.transaction():
        _change(connection, "set_password", name, password_hash=password_hash)
        end_sessions(connection, name)


def renew_hash(connection: Connection, name: str, *, before: str, after: str) -> None:
    """Replace the hash of a password by another of the same one, unless the password was changed meanwhile."""
    with connection.transaction():
        audit.act_as(connection, name, "the same password, hashed with today's parameters", is_local=True)
        connection.execute(_SQL["renew_hash"], {"name": name, "before": before, "after": after})


def disable_person(connection: Connection, name: str) -> None:
    """Let a person sign in no more, and end their sessions. Raises UnknownPersonError."""
    with connection.transaction():
        _change(connection, "disable_person", name)
        end_sessions(connection, name)


def enable_person(connection: Connection, name: str) -> None:
    """Let a disabled person sign in again. Raises UnknownPersonError."""
    _change(connection, "enable_person", name)


def remove_person(connection: Connection, name: str) -> None:
    """Remove a person and their sessions. Raises UnknownPersonError."""
    _change(connection, "remove_person", name)


def list_people(connection: Connection) -> list[PersonSummary]:
    """Return all people by name."""
    with connection.cursor(row_factory=class_row(PersonSummary)) as cursor:
        return cursor.execute(_SQL["list_people"]).fetchall()


def count_people(connection: Connection) -> int:
    """Return how many people there are, disabled ones included."""
    (row,) = connection.execute(_SQL["count_people"]).fetchall()
    return int(row["count"])


def find_person(connection: Connection, name: str) -> Person | None:
    """Return a person; None for whom there is not, or who is disabled."""
    with connection.cursor(row_factory=class_row(Person)) as cursor:
        return cursor.execute(_SQL["find_person"], {"name": name}).fetchone()


def find_hash(connection: Connection, name: str) -> str | None:
    """Return the hash of a person's password; None for whom there is not, or who is disabled or has none."""
    row = connection.execute(_SQL["find_hash"], {"name": name}).fetchone()
    return None if row is None else row["password_hash"]


def start_session(connection: Connection, name: str, *, seconds: float, is_proxied: bool = False) -> str:
    """Begin a session and return its token, which is stored nowhere; remove sessions that are over.

    Args:
        connection: in autocommit, or in a transaction of the caller's.
        name: of a person.
        seconds: after which it ends whatever they do.
        is_proxied: whether a proxy's header said who they are.

    Raises:
        UnknownPersonError: they were removed meanwhile.
    """
    token = secrets.token_urlsafe(TOKEN_BYTES)
    values = {"digest": _digest(token), "name": name, "is_proxied": is_proxied, "seconds": seconds}
    with connection.transaction():
        connection.execute(_SQL["end_expired"])
        connection.execute(_SQL["end_surplus"], {"name": name, "kept": SESSIONS_EACH - 1})
        try:
            connection.execute(_SQL["start_session"], values)
        except errors.ForeignKeyViolation:
            raise _unknown(name) from None
    return token


def read_session(
    connection: Connection, token: str, *, idle_seconds: float, is_proxied: bool = False, is_use: bool = True
) -> Person | None:
    """Return whose session it is, and note at most once a minute that it was used; remove it if it is over.

    Args:
        connection: in autocommit.
        token: as a browser sent it, whatever that is.
        idle_seconds: time without use after which it ends; that of a short one is noted more often.
        is_proxied: of which kind it must be.
        is_use: whether a person has done something; without it the session comes closer to its end.
    """
    key = {"digest": _digest(token)}
    values = key | {"idle_seconds": idle_seconds, "is_proxied": is_proxied}
    row = connection.execute(_SQL["read_session"], values).fetchone()
    if row is None:
        return None
    if row["is_over"]:
        connection.execute(_SQL["end_session"], key)
        return None
    if row["is_due"] and is_use:
        connection.execute(_SQL["note_use"], key)
    return Person(name=row["name"], role=row["role"], tenants=row["tenants"])


def end_session(connection: Connection, token: str) -> None:
    """End a session, if there is one."""
    connection.execute(_SQL["end_session"], {"digest": _digest(token)})


def end_sessions(connection: Connection, name: str) -> None:
    """End all sessions of a person."""
    connection.execute(_SQL["end_sessions"], {"name": name})


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()


def _change(connection: Connection, query: str, name: str, **values: object) -> None:
    if not connection.execute(_SQL[query], {"name": name} | values).fetchone():
        raise _unknown(name)


def _unknown(name: str) -> UnknownPersonError:
    return UnknownPersonError(f"the console has no user {name!r}; `pipeline console list-users` shows them")


def _check_tenants(connection: Connection, role: str, tenants: Collection[str] | None) -> list[str] | None:
    """Return the tenants in order; raise BadRoleError or UnknownTenantError."""
    if role not in ROLES:
        raise BadRoleError(f"{role!r} is no role: take {', '.join(ROLES)}")
    if tenants is None:
        return None
    if role != "operator":
        raise BadRoleError(f"tenants are of operators only: a person with the role {role} has no use for them")
    if not tenants:
        raise BadRoleError("an operator of no tenant may change nothing: name a tenant, or take the role viewer")
    found = sorted(set(tenants))
    if unknown := [row["name"] for row in connection.execute(_SQL["list_unknown_tenants"], {"tenants": found})]:
        raise UnknownTenantError(f"there is no tenant {unknown[0]!r}; `pipeline tenants list` shows them")
    return found
