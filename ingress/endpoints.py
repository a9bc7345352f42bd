"""Step 1: find the endpoint in a snapshot of the registry.

Guarantees: a lookup touches memory only; an endpoint is decoded and its secrets decrypted when it is first asked for,
and again only when it has changed, so that a new snapshot of 10,000 endpoints costs the loop little but its transfer;
the last good snapshot stays until a newer one is read. What cannot be read or decrypted here is a fault of ours, and
answered 503, never 401, which a provider might take for "stop sending".
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final

from ingress.errors import ENDPOINT_UNREADABLE, INBOX_UNAVAILABLE, UNKNOWN_ENDPOINT, Refusal
from ingress.schemes import Scheme, find
from ingress.schemes.scheme import NEVER, BadSchemeError, Key, WrongSecretError
from shared.registry import VERSION_FIELD, Cipher, Limits, RegistryError, Secret, decode

log: Final = logging.getLogger(__name__)

TRIED_SECRETS: Final = 100
"""How many secrets are tried before `SECRETS_KEY` is taken for a wrong one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One enabled endpoint, ready to verify.

    Attributes:
        keys: the secrets that could be decrypted, expired ones included.
        unreadable_until: Unix seconds until which a secret that could not be decrypted may be the one that signed; 0 if
            there is none.
    """

    provider: str
    tenant: str
    scheme: Scheme
    keys: tuple[Key, ...]
    unreadable_until: float
    limits: Limits

    def valid_keys(self, now: float) -> tuple[Key, ...]:
        """Return the keys that may sign at `now`, Unix seconds."""
        return tuple(key for key in self.keys if now < key.expires_at)


class Endpoints:
    """The registry as this process knows it."""

    def __init__(self, cipher: Cipher) -> None:
        self._cipher = cipher
        self._fields: Mapping[bytes, bytes] = {}
        self._opened: dict[str, Endpoint | Refusal] = {}
        self.version: str | None = None
        """Of the snapshot; None until one was loaded."""
        self.has_wrong_key = False
        """Whether the snapshot has secrets, and `SECRETS_KEY` opens none of them."""

    def replace(self, fields: Mapping[bytes, bytes]) -> None:
        """Take over the fields of the registry's hash; without a version among them it is no registry, and ignored."""
        version = fields.get(VERSION_FIELD.encode())
        if version is None:
            return
        # Endpoints of unchanged fields stay: opening all of 10,000 again took a second of CPU after each change of one.
        before = self._fields
        self._opened = {
            name: endpoint
            for name, endpoint in self._opened.items()
            if fields.get(field := name.encode("utf-8", "replace")) == before[field]
        }
        self._fields, self.version = fields, version.decode("ascii", "replace")
        log.info("the registry has %d endpoints at version %s", len(fields) - 1, self.version)
        tried = list(islice(self._secrets(), TRIED_SECRETS))
        self.has_wrong_key = bool(tried) and not any(map(self._cipher.can_decrypt, tried))
        if self.has_wrong_key:
            log.error("SECRETS_KEY opens no secret of the registry: use the key that the secrets were added with")

    def find(self, name: str) -> Endpoint | Refusal:
        """Return the endpoint called `provider/tenant` (a name with one slash), or why there is none."""
        known = self._opened.get(name)
        if known is not None:
            return known
        if self.version is None:
            return INBOX_UNAVAILABLE
        field = name.encode("utf-8", "replace")
        value = self._fields.get(field)
        if value is None:
            return UNKNOWN_ENDPOINT  # not remembered: callers could fill the memory with names they make up
        endpoint = self._opened[name] = self._open(field, value)
        return endpoint

    def _secrets(self) -> Iterator[Secret]:
        for field, value in self._fields.items():
            with suppress(RegistryError):
                yield from decode(field, value).secrets if field != VERSION_FIELD.encode() else ()

    def _open(self, field: bytes, value: bytes) -> Endpoint | Refusal:
        """Decode and decrypt one endpoint; called once for each state of it."""
        try:
            described = decode(field, value)
            if not described.enabled:
                return UNKNOWN_ENDPOINT
            scheme = find(described.scheme)
        except (RegistryError, BadSchemeError) as error:
            log.error("the endpoint %s: %s", field.decode(), error, extra={"code": ENDPOINT_UNREADABLE.code})  # noqa: TRY400 the text says it all
            return ENDPOINT_UNREADABLE
        keys: list[Key] = []
        unreadable_until = 0.0
        for secret in described.secrets:
            expires_at = secret.expires_at.timestamp() if secret.expires_at else NEVER
            try:
                text = self._cipher.decrypt(secret)
                keys.append(scheme.read_key(label=secret.label, text=text, expires_at=expires_at))
            except (RegistryError, WrongSecretError) as error:
                unreadable_until = max(unreadable_until, expires_at)
                about = {"code": ENDPOINT_UNREADABLE.code, "provider": described.provider, "tenant": described.tenant}
                named = "" if isinstance(error, RegistryError) else f"the secret {secret.label!r} cannot be used: "
                log.error("%s%s", named, error, extra=about)  # noqa: TRY400 the text says it all
        return Endpoint(
            provider=described.provider,
            tenant=described.tenant,
            scheme=scheme,
            keys=tuple(keys),
            unreadable_until=unreadable_until,
            limits=described.limits,
        )
