"""The registry: tenants, their endpoints and the secrets that may sign, as people change it.

Guarantees: each change is one transaction and raises the registry's version in it (triggers do); a secret is taken
and given as ciphertext only. Refuses: names that a URL path or a table would not take, duplicates, and whatever does
not exist, each with a `RefusedError` whose text is one line for the person who asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from psycopg import errors
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from shared import registry
from workers.store.refusals import (
    BadNameError,
    BadSettingError,
    EndpointExistsError,
    SecretExistsError,
    SettingsTooLargeError,
    TenantExistsError,
    UnknownEndpointError,
    UnknownSecretError,
    UnknownTenantError,
)
from workers.store.sql import Queries, readable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from workers.store.connect import Connection

_SQL: Final = Queries("tenants.sql")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_SETTING: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")
_MOST_NESTED: Final = 20
"""Objects and lists within each other in a setting; Python reads no more than its stack is deep."""
_LABEL_LENGTH: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One tenant.

    Attributes:
        max_in_flight: deliveries that may be queued and running at once.
        weight: deliveries of it in each round of admission.
        ingest_rate: events a second that its providers may send.
        ingest_burst: events that may come at once, whatever the rate.
        inbox_bytes: its share of the inbox, while other tenants are active.
        paused_at: while set, nothing of it is admitted; by whom, why and until when is beside it, see `pauses`.
        settings: what handlers are told about it.
    """

    name: str
    max_in_flight: int | None
    weight: int
    ingest_rate: float | None
    ingest_burst: int | None
    inbox_bytes: int | None
    paused_at: datetime | None
    paused_by: str | None
    pause_reason: str | None
    paused_until: datetime | None
    settings: Mapping[str, Any]
    created_at: datetime

    @property
    def ingest(self) -> registry.Limits:
        """What it may send."""
        return registry.Limits(rate=self.ingest_rate, burst=self.ingest_burst, inbox_bytes=self.inbox_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSummary:
    """One endpoint as lists show it; `labels` are those of the secrets that may sign now."""

    tenant: str
    provider: str
    scheme: str | Mapping[str, Any]
    enabled: bool
    created_at: datetime
    labels: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretSummary:
    """One secret as lists show it: everything but the secret."""

    tenant: str
    provider: str
    label: str
    created_at: datetime
    expires_at: datetime | None


def add_tenant(connection: Connection, name: str, *, max_in_flight: int | None = None) -> None:
    """Add a tenant.

    Args:
        connection: in autocommit, or in a transaction of the caller's.
        name: the second path segment of its URLs.
        max_in_flight: cap on its queued and running deliveries; None for no cap.

    Raises:
        RefusedError: BadNameError, TenantExistsError.
    """
    _check_name("tenant", name)
    if not connection.execute(_SQL["add_tenant"], {"name": name, "max_in_flight": max_in_flight}).fetchone():
        raise TenantExistsError(f"there is a tenant {name!r} already")


def list_tenants(
    connection: Connection, *, prefix: str | None = None, after: str | None = None, limit: int | None = None
) -> list[Tenant]:
    """Return tenants by name: those that begin so, after a name, at most so many; None does not narrow."""
    values = {"name": None, "prefix": readable(prefix), "after": readable(after), "most": limit}
    with connection.cursor(row_factory=class_row(Tenant)) as cursor:
        return cursor.execute(_SQL["list_tenants"], values, prepare=False).fetchall()


def find_tenant(connection: Connection, name: str) -> Tenant:
    """Return a tenant. Raises UnknownTenantError."""
    with connection.cursor(row_factory=class_row(Tenant)) as cursor:
        values = {"name": readable(name), "prefix": None, "after": None, "most": 1}
        found = cursor.execute(_SQL["list_tenants"], values).fetchone()
    if found is None:
        raise _unknown_tenant(name)
    return found


def limit_tenant(connection: Connection, name: str, max_in_flight: int | None) -> None:
    """Set or lift (None) the cap on a tenant's queued and running deliveries. Raises UnknownTenantError."""
    _change_tenant(connection, "limit_tenant", name, max_in_flight=max_in_flight)


def weigh_tenant(connection: Connection, name: str, weight: int) -> None:
    """Set how many deliveries of a tenant have a turn in each round of admission. Raises UnknownTenantError."""
    _change_tenant(connection, "weigh_tenant", name, weight=weight)


def set_settings(connection: Connection, name: str, values: Mapping[str, Any], *, unset: Collection[str] = ()) -> None:
    """Change what handlers are told about a tenant; others of its settings stay.

    Args:
        connection: in autocommit, or in a transaction of the caller's.
        name: of the tenant.
        values: by name, JSON values, nothing secret: they are shown and kept in the audit.
        unset: names of those that are taken away.

    Raises:
        RefusedError: UnknownTenantError, BadNameError, BadSettingError, SettingsTooLargeError.
    """
    for key, value in values.items():
        if not _SETTING.fullmatch(key):
            raise BadNameError(
                f"{key!r} cannot name a setting: take letters, digits, _, . and -, a letter or _ first, at most 100"
            )
        if _is_nested(value, _MOST_NESTED):
            raise BadSettingError(f"the value of {key} is nested more than {_MOST_NESTED} deep: give it as a text")
    try:
        _change_tenant(connection, "set_settings", name, values=Jsonb(dict(values)), unset=list(unset))
    except errors.CheckViolation:
        raise SettingsTooLargeError(
            f"the settings of {name} would take more than 16 kB: nothing was changed; keep what is large elsewhere"
        ) from None
    except errors.DataError as error:
        raise BadSettingError(
            f"Postgres cannot hold the value of {', '.join(values)}: no \\u0000, no half of a surrogate pair and no "
            f"number beyond 1e308 ({error.diag.message_primary})"
        ) from None


def _is_nested(value: Any, most: int) -> bool:
    """Return whether there are more than so many objects and lists within each other."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return parts is not None and (most == 0 or any(_is_nested(it, most - 1) for it in parts))


def limit_ingest(connection: Connection, name: str, limits: registry.Limits) -> None:
    """Set or lift (None) what a tenant may send; published with the registry. Raises UnknownTenantError."""
    _change_tenant(
        connection, "limit_ingest", name, rate=limits.rate, burst=limits.burst, inbox_bytes=limits.inbox_bytes
    )


def add_endpoint(
    connection: Connection,
    *,
    tenant: str,
    provider: str,
    scheme: str | Mapping[str, Any],
    label: str,
    ciphertext: bytes,
) -> None:
    """Add an endpoint with its first secret, in one transaction.

    Args:
        connection: in autocommit, or in a transaction of the caller's.
        tenant: an existing one.
        provider: the first path segment; also selects the event models.
        scheme: name of a signature scheme, or the description of one.
        label: what the team calls the secret; kept on every event that it verifies.
        ciphertext: of the secret, from `shared.registry.Cipher.encrypt`.

    Raises:
        RefusedError: BadNameError, UnknownTenantError, EndpointExistsError.
    """
    _check_name("provider", provider)
    _check_label(label)
    key = {"tenant": tenant, "provider": provider}
    with connection.transaction():
        try:
            added = connection.execute(_SQL["add_endpoint"], key | {"scheme": Jsonb(scheme)}).fetchone()
        except errors.ForeignKeyViolation:
            raise _unknown_tenant(tenant) from None
        if not added:
            raise EndpointExistsError(
                f"{tenant} has an endpoint of {provider} already; add a secret to it with "
                f"`pipeline secrets add {tenant} --provider {provider} --label …`"
            )
        connection.execute(_SQL["add_secret"], key | {"label": label, "ciphertext": ciphertext})


def list_endpoints(
    connection: Connection,
    *,
    tenant: str | None = None,
    prefix: str | None = None,
    after: tuple[str, str] | None = None,
    limit: int | None = None,
) -> list[EndpointSummary]:
    """Return endpoints by tenant and provider: of a tenant, or of those that begin so, after one; None: no bound."""
    after_tenant, after_provider = after or (None, None)
    values = {
        "tenant": readable(tenant),
        "prefix": readable(prefix),
        "after_tenant": readable(after_tenant),
        "after_provider": readable(after_provider),
        "most": limit,
    }
    with connection.cursor(row_factory=class_row(EndpointSummary)) as cursor:
        return cursor.execute(_SQL["list_endpoints"], values, prepare=False).fetchall()


def change_scheme(connection: Connection, *, tenant: str, provider: str, scheme: str | Mapping[str, Any]) -> None:
    """Change how an endpoint's provider signs. Raises UnknownEndpointError."""
    values = {"tenant": tenant, "provider": provider, "scheme": Jsonb(scheme)}
    if not connection.execute(_SQL["change_scheme"], values).fetchone():
        raise _unknown_endpoint(tenant, provider)


def disable_endpoint(connection: Connection, *, tenant: str, provider: str) -> None:
    """Let an endpoint answer as if it did not exist; what it has stored goes on. Raises UnknownEndpointError."""
    _enable(connection, tenant, provider, enabled=False)


def enable_endpoint(connection: Connection, *, tenant: str, provider: str) -> None:
    """Take a disabled endpoint back into service. Raises UnknownEndpointError."""
    _enable(connection, tenant, provider, enabled=True)


def find_endpoint(connection: Connection, *, tenant: str, provider: str) -> registry.Endpoint:
    """Return one endpoint with the ciphertexts of all its secrets, the oldest first. Raises UnknownEndpointError."""
    found = find_endpoints(connection, [(tenant, provider)])
    if not found:
        raise _unknown_endpoint(tenant, provider)
    return found[0]


def find_endpoints(connection: Connection, keys: Sequence[tuple[str, str]]) -> list[registry.Endpoint]:
    """Return those of these endpoints, by tenant and provider, that there are, as `find_endpoint` does."""
    values = {"tenants": [readable(it) for it, _ in keys], "providers": [readable(it) for _, it in keys]}
    return [_endpoint(row) for row in connection.execute(_SQL["find_endpoints"], values, prepare=False)]


def add_secret(connection: Connection, *, tenant: str, provider: str, label: str, ciphertext: bytes) -> None:
    """Add a secret that may sign beside the others. Raises BadNameError, UnknownEndpointError, SecretExistsError."""
    _check_label(label)
    values = {"tenant": tenant, "provider": provider, "label": label, "ciphertext": ciphertext}
    try:
        added = connection.execute(_SQL["add_secret"], values).fetchone()
    except errors.ForeignKeyViolation:
        raise _unknown_endpoint(tenant, provider) from None
    if not added:
        raise SecretExistsError(
            f"{tenant}'s endpoint of {provider} has a secret {label!r} already; choose another label"
        )


def list_secrets(connection: Connection, *, tenant: str, provider: str | None = None) -> list[SecretSummary]:
    """Return the secrets of a tenant's endpoints, expired ones included, never their content."""
    with connection.cursor(row_factory=class_row(SecretSummary)) as cursor:
        return cursor.execute(_SQL["list_secrets"], {"tenant": tenant, "provider": provider}).fetchall()


def expire_secret(connection: Connection, *, tenant: str, provider: str, label: str, at: datetime) -> None:
    """Let a secret verify nothing from `at` (aware) on. Raises UnknownSecretError."""
    values = {"tenant": tenant, "provider": provider, "label": label, "at": at}
    if not connection.execute(_SQL["expire_secret"], values).fetchone():
        raise UnknownSecretError(
            f"{tenant}'s endpoint of {provider} has no secret {label!r}; `pipeline secrets list {tenant}` shows them"
        )


def replace_ciphertexts(connection: Connection, changes: Mapping[tuple[str, str, str], tuple[bytes, bytes]]) -> int:
    """Replace ciphertexts of secrets, in one statement; return of how many.

    Args:
        connection: in autocommit, or in a transaction of the caller's.
        changes: by tenant, provider and label the ciphertext that was read, and the new one. A secret that has changed
            since is left alone.
    """
    names, texts = zip(*changes, strict=True), zip(*changes.values(), strict=True)
    columns = dict(zip(("tenants", "providers", "labels", "before", "after"), map(list, (*names, *texts)), strict=True))
    return len(connection.execute(_SQL["replace_ciphertexts"], columns).fetchall())


def registry_version(connection: Connection) -> int:
    """Return the version that every change of an endpoint or secret raises."""
    (row,) = connection.execute(_SQL["registry_version"]).fetchall()
    return int(row["version"])


def overtake(connection: Connection, held: int) -> None:
    """Raise the version above one that somebody holds of a database that is no more; do nothing if it is above."""
    connection.execute(_SQL["overtake"], {"held": held})


def read_registry(connection: Connection) -> tuple[int, list[registry.Endpoint]]:
    """Return the version and the endpoints that belong to it, in one snapshot."""
    rows = connection.execute(_SQL["read_registry"], binary=True).fetchall()
    return int(rows[0]["version"]), [_endpoint(row) for row in rows if row["tenant"] is not None]


def is_alive(secret: registry.Secret, now: datetime | None = None) -> bool:
    """Say whether a secret may sign now."""
    return secret.expires_at is None or secret.expires_at > (now or datetime.now(UTC))


def _endpoint(row: Mapping[str, Any]) -> registry.Endpoint:
    return registry.Endpoint(
        provider=row["provider"],
        tenant=row["tenant"],
        scheme=row["scheme"],
        enabled=row["enabled"],
        secrets=tuple(
            registry.Secret(label=label, ciphertext=ciphertext, expires_at=expires_at)
            for label, ciphertext, expires_at in zip(
                row["labels"] or (), row["ciphertexts"] or (), row["expiries"] or (), strict=True
            )
        ),
        limits=registry.Limits(rate=row["ingest_rate"], burst=row["ingest_burst"], inbox_bytes=row["inbox_bytes"]),
    )


def _change_tenant(connection: Connection, query: str, name: str, **values: object) -> None:
    if not connection.execute(_SQL[query], {"name": name} | values).fetchone():
        raise _unknown_tenant(name)


def _enable(connection: Connection, tenant: str, provider: str, *, enabled: bool) -> None:
    values = {"tenant": tenant, "provider": provider, "enabled": enabled}
    if not connection.execute(_SQL["enable_endpoint"], values).fetchone():
        raise _unknown_endpoint(tenant, provider)


def _unknown_tenant(name: str) -> UnknownTenantError:
    return UnknownTenantError(f"there is no tenant {name!r}; add it with `pipeline tenants add {name}`")


def _unknown_endpoint(tenant: str, provider: str) -> UnknownEndpointError:
    return UnknownEndpointError(
        f"{tenant!r} has no endpoint of {provider!r}; "
        f"add it with `pipeline endpoints add {tenant} --provider {provider} --label …`"
    )


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise BadNameError(
            f"{name!r} cannot name a {what}: use up to 63 lower-case letters, digits, - and _, a letter or digit first"
        )


def _check_label(label: str) -> None:
    if not (0 < len(label) <= _LABEL_LENGTH and label.isprintable()):
        raise BadNameError(f"the label {label!r} must have 1 to {_LABEL_LENGTH} printable characters")
