"""Signature schemes as data: what a TOML file, an endpoint in the registry or a preset says.

A description that was read can be followed: `BadSchemeError` refuses unknown keys and placeholders, a missing header,
values of the wrong type, and a time or id that is read but not signed; its text names the key.

Signatures are compared as text and in constant time. A time out of tolerance, in the past or in the future, is stale
only if its signature is right, so that nobody learns anything from it. A request is refused if a header of the scheme
comes twice (whoever adds one must not choose the one that counts), if it has more than `MAX_SIGNATURES` signatures, and
if its id is empty. A signature and a time each have one spelling.
"""

import hmac
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any, Final

from cryptography.exceptions import InvalidSignature

from ingress.schemes.content import HEADER_NAME, ISO8601, SECONDS, Template
from ingress.schemes.encodings import ENCODERS, decode
from ingress.schemes.keys import FORMS, is_for_ed25519, read_hmac_key, read_private_key, read_public_key
from ingress.schemes.scheme import NEVER, BadSchemeError, BadSignature, Handshake, Key

MAX_SIGNATURES: Final = 8
"""In one request; providers send two while a secret is rotated. Each may cost an Ed25519 verification."""
ALGORITHMS: Final = {"hmac-sha256": "sha256", "hmac-sha512": "sha512", "hmac-sha1": "sha1", "ed25519": ""}
"""By name, the digest of the HMAC. SHA-1 is for senders that have nothing better, and never a default."""
UNITS: Final = ("s", "ms", "iso8601")
LONGEST_TOLERANCE: Final = 86_400
"""Seconds: a day. Beyond it there is no protection to speak of."""
_LONGEST: Final = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """How a provider signs.

    Attributes:
        header: names of the signature header; the first one that a request has counts.
        algorithm: one of `ALGORITHMS`.
        encoding: one of `ENCODERS`.
        prefix: stands before the signature, such as "sha256=" or "v1,".
        separator: between several items in one header, such as " " or ","; empty: there is one signature.
        content: template of the signed bytes.
        timestamp: names of the header with the time; the first one that a request has counts.
        timestamp_field: begins the item of the signature header that holds the time, such as "t=".
        timestamp_unit: one of `UNITS`.
        tolerance: seconds that the time may be off, in both directions.
        id: names of the header with the event's id.
        key: form of the secret, one of `FORMS`.
        ed25519_prefix: before Ed25519 signatures in a scheme that has HMAC too; secrets with `whpk_` then use it.
        url: for `{url}`, exactly as registered with the provider: behind a proxy the ingress cannot know it.
        handshake: what the provider asks before it sends.
    """

    header: tuple[str, ...]
    algorithm: str
    encoding: str = "hex"
    prefix: str = ""
    separator: str = ""
    content: str = "{body}"
    timestamp: tuple[str, ...] = ()
    timestamp_field: str = ""
    timestamp_unit: str = "s"
    tolerance: int = 300
    id: tuple[str, ...] = ()
    key: str = "raw"
    ed25519_prefix: str = ""
    url: str = ""
    handshake: Handshake = Handshake.NONE

    @property
    def template(self) -> Template:
        """Return the parsed content."""
        return Template(self.content, url=self.url, has_iso_time=self.timestamp_unit == "iso8601")


KEYS: Final = tuple(field.name for field in fields(Description))


class Declared:
    """A description, ready to verify and to sign.

    Attributes:
        description: how the provider signs.
        given: the same as it was written, for descriptions that start from this one.
        handshake: what the provider asks before it sends events.
        signed_ids: headers, in lower case, whose first one present is the event's id and part of what is signed.
        template: of the signed content.
    """

    def __init__(self, description: Description, given: Mapping[str, Any]) -> None:
        self.given = given
        it = self.description = description
        self.handshake = it.handshake
        self.signed_ids = _lower(it.id)
        self.template = it.template
        self._signatures = _lower(it.header)
        self._timestamps = _lower(it.timestamp)
        self._wanted = frozenset((*self._signatures, *self._timestamps, *self.signed_ids, *self.template.headers))
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
        """Return which of the living keys signed the request, or why none did; nothing is raised, whatever it holds.

        1. Collect the headers of the scheme, which are as ASGI has them.
        2. Split the signature header into signatures and time.
        3. Put the signed content together, and find the key that signed it.
        4. Only then look at the clock (`now` is in Unix seconds).
        """
        found: dict[bytes, bytes] = {}
        wanted = self._wanted
        for name, value in headers:
            if name in wanted:
                if name in found:
                    return BadSignature.INVALID
                found[name] = value
        given = first(found, self._signatures)
        if not given:
            return BadSignature.MISSING
        items = given.split(self._separator) if self._separator else [given]
        timestamp = self.read_timestamp(found, items)
        event_id = first(found, self.signed_ids)
        if (self._has_time and not timestamp) or (self.signed_ids and not event_id):
            return BadSignature.INVALID
        content = self.template.fill(body=body, timestamp=timestamp, event_id=event_id, headers=found)
        key = None if content is None else self._find(keys, items, content)
        if key is None:
            return BadSignature.INVALID
        if not self._has_time:
            return key
        moment = read_time(timestamp, self.description.timestamp_unit)
        return key if moment is not None and abs(now - moment) <= self.description.tolerance else BadSignature.STALE

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
        extra = dict.fromkeys(self.template.headers, sent_id)
        content = self.template.fill(body=body, timestamp=timestamp, event_id=sent_id, headers=extra)
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

    def read_timestamp(self, found: Mapping[bytes, bytes], items: Sequence[bytes]) -> bytes:
        """Return the text of the signed time, empty if there is none or two."""
        if not self._field:
            return first(found, self._timestamps)
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


def first(found: Mapping[bytes, bytes], names: Sequence[bytes]) -> bytes:
    """Return the value of the first of these headers that is there, else nothing."""
    for name in names:
        if name in found:
            return found[name]
    return b""


def declare(given: Mapping[str, Any]) -> Declared:
    """Return the scheme of a description.

    Args:
        given: by key, values as TOML and JSON have them; `header`, `timestamp` and `id` take a name or a list.

    Raises:
        BadSchemeError: it cannot be followed.
    """
    for name in given:
        if name not in KEYS:
            close = get_close_matches(str(name), KEYS, 1)
            meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(KEYS)}"
            raise BadSchemeError(f"unknown key {name!r}: {meant}")
    values: dict[str, Any] = {name: _read(name, value) for name, value in given.items()}
    if not values.get("header"):
        raise BadSchemeError('header is missing: the header that carries the signature, such as "X-Signature"')
    if "algorithm" not in values:
        raise BadSchemeError(f"algorithm is missing: one of {', '.join(ALGORITHMS)}")
    description = Description(**values)
    _check_time_and_id(description, description.template.placeholders)
    _check_keys(description)
    return Declared(description, given)


_CHOICES: Final[Mapping[str, Collection[str]]] = {
    "algorithm": ALGORITHMS,
    "encoding": ENCODERS,
    "timestamp_unit": UNITS,
    "key": FORMS,
    "handshake": tuple(it.value for it in Handshake),
}


def _read(name: str, value: object) -> Any:
    """Check one value by the key's type."""
    if name in _CHOICES:
        known = _CHOICES[name]
        if not isinstance(value, str) or value not in known:
            raise BadSchemeError(f"{name}: {value!r} is none of {', '.join(it for it in known if it)}")
        return Handshake(value) if name == "handshake" else value
    if name in {"header", "timestamp", "id"}:
        names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, (list, tuple)) else ()
        if value in ("", []) and name != "header":
            return ()
        if not names or not all(isinstance(it, str) and HEADER_NAME.fullmatch(it) for it in names):
            raise BadSchemeError(f"{name}: a header's name or a list of names is expected, not {value!r}")
        return names
    if name == "tolerance":
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= LONGEST_TOLERANCE:
            raise BadSchemeError(f"tolerance: whole seconds from 1 to {LONGEST_TOLERANCE} are expected, not {value!r}")
        return value
    if not isinstance(value, str) or len(value) > _LONGEST or not value.isascii():
        raise BadSchemeError(f"{name}: a text of ASCII characters is expected, not {value!r}")
    return value


def _check_time_and_id(it: Description, placeholders: tuple[str, ...]) -> None:
    """Refuse a time or id that is signed but read from nowhere, or read but not signed."""
    if it.timestamp and it.timestamp_field:
        raise BadSchemeError("timestamp and timestamp_field are two sources of one time: give one")
    if it.timestamp_field and not it.separator:
        raise BadSchemeError("timestamp_field is an item of the signature header: give the separator of its items too")
    has_time = bool(it.timestamp or it.timestamp_field)
    if "timestamp" in placeholders and not has_time:
        raise BadSchemeError("content holds {timestamp}: give timestamp (a header) or timestamp_field (such as t=)")
    if has_time and "timestamp" not in placeholders:
        raise BadSchemeError(
            "a timestamp is given, but content has no {timestamp}: a time that is not signed is no proof"
        )
    if "id" in placeholders and not it.id:
        raise BadSchemeError("content holds {id}: give id, the header that carries it")
    if it.id and "id" not in placeholders:
        raise BadSchemeError("an id is given, but content has no {id}: an id that is not signed is no identity")


def _check_keys(it: Description) -> None:
    if it.algorithm == "ed25519" and it.key == "raw":
        raise BadSchemeError("key: an Ed25519 public key is hex, base64 or whsec (base64 after whpk_)")
    if it.ed25519_prefix and (it.key != "whsec" or not it.separator or it.algorithm == "ed25519"):
        raise BadSchemeError('ed25519_prefix is for an HMAC scheme with a separator and key = "whsec"')
    if it.timestamp_field and (it.prefix.startswith(it.timestamp_field) or it.timestamp_field.startswith(it.prefix)):
        raise BadSchemeError("prefix and timestamp_field must tell signatures and the time apart")
