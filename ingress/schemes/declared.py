"""Verifies and signs by a description: all presets but `none`, and what teams describe in a file.

Signatures are compared as text and in constant time. A time out of tolerance, in the past or in the future, is stale
only if its signature is right, so that nobody learns anything from it. A request is refused if a header of the scheme
comes twice (whoever adds one must not choose the one that counts), if it has more than `MAX_SIGNATURES` signatures, and
if its id is empty. A signature and a time each have one spelling.
"""

from __future__ import annotations

import hmac
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidSignature

from ingress.schemes.content import ISO8601, SECONDS
from ingress.schemes.description import ALGORITHMS, BadSchemeError, Description, read_description
from ingress.schemes.encodings import ENCODERS, decode
from ingress.schemes.keys import is_for_ed25519, read_hmac_key, read_private_key, read_public_key
from ingress.schemes.scheme import NEVER, BadSignature, Key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["BadSchemeError", "Declared", "declare"]

MAX_SIGNATURES: Final = 8
"""In one request; providers send two while a secret is rotated. Each may cost an Ed25519 verification."""


def declare(given: Mapping[str, Any]) -> Declared:
    """Return the scheme of a description, by key, values as TOML has them. Raises BadSchemeError."""
    return Declared(read_description(given), given)


class Declared:
    """A description, ready to verify and to sign.

    Attributes:
        description: how the provider signs.
        given: the same as it was written, for descriptions that start from this one.
        handshake: what the provider asks before it sends events.
        signed_ids: headers, in lower case, whose first one present is the event's id and part of what is signed.
    """

    def __init__(self, description: Description, given: Mapping[str, Any]) -> None:
        self.given = given
        it = self.description = description
        self.handshake = it.handshake
        self.signed_ids = _lower(it.id)
        self._template = it.template
        self._signatures = _lower(it.header)
        self._timestamps = _lower(it.timestamp)
        self._wanted = frozenset((*self._signatures, *self._timestamps, *self.signed_ids, *self._template.headers))
        self._prefix = it.prefix.encode()
        self._ed25519_prefix = (it.prefix if it.algorithm == "ed25519" else it.ed25519_prefix).encode()
        self._separator = it.separator.encode()
        self._field = it.timestamp_field.encode()
        self._has_time = bool(it.timestamp or it.timestamp_field)
        self._has_ed25519 = it.algorithm == "ed25519" or bool(it.ed25519_prefix)
        self._digest = ALGORITHMS[it.algorithm]
        self._encode = ENCODERS[it.encoding]

    def read_key(self, *, label: str, text: bytes, expires_at: float = NEVER) -> Key:
        """Turn a secret as the provider shows it into what verifies.

        Raises:
            WrongSecretError: it is not of the scheme's form.
        """
        form = self.description.key
        if self._is_ed25519(text):
            return Key(label=label, secret=b"", public_key=read_public_key(text, form), expires_at=expires_at)
        return Key(label=label, secret=read_hmac_key(text, form), expires_at=expires_at)

    def verify(
        self, *, keys: Sequence[Key], headers: Sequence[tuple[bytes, bytes]], body: bytes, now: float
    ) -> Key | BadSignature:
        """Return the key that signed the request, or why none did; nothing is raised, whatever the bytes are.

        1. Collect the headers of the scheme.
        2. Split the signature header into signatures and time.
        3. Put the signed content together, and find the key that signed it.
        4. Only then look at the clock.

        Args:
            keys: those that have not expired; any of them may have signed.
            headers: as ASGI has them: names in lower case, values any bytes, in order, repetitions kept.
            body: the bytes as received.
            now: Unix seconds.
        """
        found: dict[bytes, bytes] = {}
        wanted = self._wanted
        for name, value in headers:
            if name in wanted:
                if name in found:
                    return BadSignature.INVALID
                found[name] = value
        given = _first(found, self._signatures)
        if not given:
            return BadSignature.MISSING
        items = given.split(self._separator) if self._separator else [given]
        timestamp = self._timestamp(found, items)
        event_id = _first(found, self.signed_ids)
        if (self._has_time and not timestamp) or (self.signed_ids and not event_id):
            return BadSignature.INVALID
        content = self._template.fill(body=body, timestamp=timestamp, event_id=event_id, headers=found)
        if content is None:
            return BadSignature.INVALID
        key = self._find(keys, items, content)
        if key is None:
            return BadSignature.INVALID
        return key if not self._has_time or self._is_fresh(timestamp, now) else BadSignature.STALE

    def sign(self, secret: bytes, body: bytes, *, now: float = 0, event_id: str = "") -> dict[str, str]:
        """Return the headers with which the provider would send this body.

        Args:
            secret: as the provider shows it; for Ed25519 the private key.
            body: the bytes to send.
            now: Unix seconds, for schemes that sign a time.
            event_id: for schemes that sign an id.

        Raises:
            WrongSecretError: it cannot sign.
        """
        it = self.description
        timestamp, sent_id = self._write_time(now), event_id.encode()
        extra = dict.fromkeys(self._template.headers, sent_id)
        content = self._template.fill(body=body, timestamp=timestamp, event_id=sent_id, headers=extra)
        if content is None:
            raise ValueError(f"the id {event_id!r} holds a text that separates it from its neighbours")
        if self._is_ed25519(secret):
            digest, prefix = read_private_key(secret, it.key).sign(content), self._ed25519_prefix
        else:
            digest, prefix = hmac.digest(read_hmac_key(secret, it.key), content, self._digest), self._prefix
        signature = prefix + self._encode(digest)
        if self._field:
            signature = self._separator.join((self._field + timestamp, signature))
        headers = {name.decode(): value.decode() for name, value in extra.items()}
        for names, value in ((it.id, sent_id), (it.timestamp, timestamp), (it.header, signature)):
            if names:
                headers[names[0]] = value.decode()
        return headers

    def _is_ed25519(self, text: bytes) -> bool:
        """Return whether a secret is for Ed25519; its prefix tells where a scheme has HMAC too."""
        return not self._digest or (self._has_ed25519 and is_for_ed25519(text))

    def _timestamp(self, found: Mapping[bytes, bytes], items: Sequence[bytes]) -> bytes:
        """Return the text of the signed time, empty if there is none or two."""
        if not self._field:
            return _first(found, self._timestamps)
        given = [item for item in items if item.startswith(self._field)]
        return given[0][len(self._field) :] if len(given) == 1 else b""

    def _find(self, keys: Sequence[Key], items: Sequence[bytes], content: bytes) -> Key | None:
        """Return the key that made one of the signatures."""
        shared = [item for item in items if item.startswith(self._prefix)] if self._digest else []
        public = [item for item in items if item.startswith(self._ed25519_prefix)] if self._has_ed25519 else []
        if len(shared) + len(public) > MAX_SIGNATURES:
            return None
        for key in keys:
            if key.public_key is not None:
                if any(self._is_signed(key, item, content) for item in public):
                    return key
            elif shared:
                expected = self._prefix + self._encode(hmac.digest(key.secret, content, self._digest))
                if any([hmac.compare_digest(expected, item) for item in shared]):  # noqa: C419 all are compared
                    return key
        return None

    def _is_signed(self, key: Key, item: bytes, content: bytes) -> bool:
        signature = decode(item[len(self._ed25519_prefix) :], self.description.encoding)
        if signature is None or key.public_key is None:
            return False
        try:
            key.public_key.verify(signature, content)
        except InvalidSignature:
            return False
        return True

    def _is_fresh(self, timestamp: bytes, now: float) -> bool:
        """Return whether the text is a time within the tolerance, in the past or in the future."""
        it = self.description
        moment = read_time(timestamp, it.timestamp_unit)
        return moment is not None and abs(now - moment) <= it.tolerance

    def _write_time(self, now: float) -> bytes:
        unit = self.description.timestamp_unit
        if unit == "iso8601":
            return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()
        return str(int(now * 1000 if unit == "ms" else now)).encode()


def read_time(text: bytes, unit: str) -> float | None:
    """Return the Unix seconds that a text says, None if it is no time of this unit or spelt in another way."""
    if unit != "iso8601":
        return int(text) / (1000 if unit == "ms" else 1) if SECONDS.fullmatch(text) else None
    if not ISO8601.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text.decode("ascii")).timestamp()
    except (ValueError, OverflowError):  # the thirtieth of February
        return None


def _lower(names: Sequence[str]) -> tuple[bytes, ...]:
    return tuple(name.lower().encode() for name in names)


def _first(found: Mapping[bytes, bytes], names: Sequence[bytes]) -> bytes:
    """Return the value of the first of these headers that is there, else nothing."""
    for name in names:
        if name in found:
            return found[name]
    return b""
