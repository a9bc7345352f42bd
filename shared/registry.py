"""The registry as it lies in Redis: one hash, a field per endpoint, secrets encrypted.

The hash (`shared.wire.Names.registry`) has the field `version`, a decimal number, and one field for each endpoint,
`provider/tenant`.

Workers publish it from Postgres; the ingress reads it. Only a newer version replaces an older one. A secret is never in
clear text outside the process that uses it. `RegistryError` refuses fields that cannot be read.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

VERSION_FIELD: Final = "version"

PUBLISH: Final = """
local held = redis.call('HGET', KEYS[1], 'version')
if held and tonumber(held) >= tonumber(ARGV[1]) then return 0 end
redis.call('DEL', KEYS[1])
for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[1], 'version', ARGV[1])
return 1
"""
"""Lua: KEYS hash; ARGV version, then field and value in turn. Returns 1 if it replaced an older one."""


class RegistryError(ValueError):
    """A registry field that cannot be read, or a secret that no key decrypts; the text says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """One of an endpoint's secrets.

    Attributes:
        label: name that the team gave it; kept on every event it verified.
        ciphertext: the Fernet token.
        expires_at: aware time from which it verifies nothing, or None.
    """

    label: str
    ciphertext: bytes
    expires_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a tenant may send, over all its endpoints; None: any amount.

    Attributes:
        rate: events a second, counted over all ingress processes.
        burst: events that may come at once, whatever the rate.
        inbox_bytes: of its entries in the inbox, while other tenants are active.
    """

    rate: float | None = None
    burst: int | None = None
    inbox_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a provider posts for one tenant.

    Attributes:
        provider: first path segment; also selects the event models.
        tenant: second path segment.
        scheme: name of a signature scheme, or the description of one.
        enabled: a disabled endpoint answers as if it did not exist.
        secrets: any unexpired one may sign.
        limits: of its tenant.
    """

    provider: str
    tenant: str
    scheme: str | Mapping[str, Any]
    enabled: bool
    secrets: tuple[Secret, ...]
    limits: Limits = Limits()


def field_of(provider: str, tenant: str) -> bytes:
    """Return the name of the hash field of one endpoint."""
    return f"{provider}/{tenant}".encode()


def encode(endpoint: Endpoint) -> bytes:
    """Return the value of one hash field."""
    return json.dumps(
        {
            "scheme": endpoint.scheme,
            "enabled": endpoint.enabled,
            "secrets": [
                {
                    "label": secret.label,
                    "ciphertext": secret.ciphertext.decode("ascii"),
                    "expires_at": secret.expires_at.isoformat() if secret.expires_at else None,
                }
                for secret in endpoint.secrets
            ],
            "limits": {name: value for name, value in asdict(endpoint.limits).items() if value is not None},
        },
        separators=(",", ":"),
    ).encode()


def decode(field: bytes, value: bytes) -> Endpoint:
    """Read one hash field.

    Raises:
        RegistryError: it is not what `encode` writes.
    """
    try:
        provider, _, tenant = field.decode().partition("/")
        data = json.loads(value)
        return Endpoint(
            provider=provider,
            tenant=tenant,
            scheme=data["scheme"],
            enabled=data["enabled"],
            secrets=tuple(
                Secret(
                    label=secret["label"],
                    ciphertext=secret["ciphertext"].encode("ascii"),
                    expires_at=datetime.fromisoformat(secret["expires_at"]) if secret["expires_at"] else None,
                )
                for secret in data["secrets"]
            ),
            limits=_limits(data.get("limits", {})),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RegistryError(f"the registry field {field!r} cannot be read: {error!r}") from None


def _limits(given: Mapping[str, float]) -> Limits:
    """Read the limits that this version knows."""
    known = {name: given[name] for name in ("rate", "burst", "inbox_bytes") if name in given}
    if any(not isinstance(value, (int, float)) or not value > 0 for value in known.values()):
        raise ValueError(f"limits are numbers above 0, not {known}")
    return Limits(**known)  # type: ignore[arg-type] # a burst is written as a whole number


class Cipher:
    """Encrypts and decrypts secrets with `SECRETS_KEY`: the first key encrypts, all of them decrypt."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [Fernet(key) for key in keys]
        self._fernet = MultiFernet(self._keys)

    def encrypt(self, secret: bytes) -> bytes:
        """Return the Fernet token of a secret."""
        return self._fernet.encrypt(secret)

    def reencrypt(self, secret: Secret) -> bytes:
        """Return the secret encrypted with the first key. Raises RegistryError: no key fits."""
        return self.encrypt(self.decrypt(secret))

    def key_of(self, secret: Secret) -> int | None:
        """Return the place of the key that decrypts a secret, 1 for the first, or None if none does."""
        for place, key in enumerate(self._keys, 1):
            try:
                key.decrypt(secret.ciphertext)
            except InvalidToken:
                continue
            return place
        return None

    def can_decrypt(self, secret: Secret) -> bool:
        """Return whether one of the keys decrypts a secret."""
        return self.key_of(secret) is not None

    def decrypt(self, secret: Secret) -> bytes:
        """Return the secret in clear.

        Raises:
            RegistryError: no key of `SECRETS_KEY` fits.
        """
        try:
            return self._fernet.decrypt(secret.ciphertext)
        except InvalidToken:
            raise RegistryError(
                f"the secret {secret.label!r} was encrypted with a key that SECRETS_KEY does not hold"
            ) from None
