"""A signature scheme as data: what a TOML file, an endpoint in the registry or a preset says.

A description that was read can be followed. `BadSchemeError` refuses unknown keys and placeholders, a missing header,
values of the wrong type, and a time or id that is read but not signed; its text names the key.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from ingress.schemes.content import HEADER_NAME, BadTemplateError, Template
from ingress.schemes.encodings import ENCODERS
from ingress.schemes.keys import FORMS
from ingress.schemes.scheme import Handshake

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

ALGORITHMS: Final[Mapping[str, str]] = {
    "hmac-sha256": "sha256",
    "hmac-sha512": "sha512",
    "hmac-sha1": "sha1",
    "ed25519": "",
}
"""By name, the digest of the HMAC. SHA-1 is for senders that have nothing better, and never a default."""
UNITS: Final = ("s", "ms", "iso8601")
LONGEST_TOLERANCE: Final = 86_400
"""Seconds: a day. Beyond it there is no protection to speak of."""
_LONGEST: Final = 2000


class BadSchemeError(ValueError):
    """A description that cannot be followed; the text is one line that names the key."""


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


def read_description(given: Mapping[str, Any]) -> Description:
    """Check a description.

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
    try:
        placeholders = description.template.placeholders
    except BadTemplateError as error:
        raise BadSchemeError(f"content: {error}") from None
    _check_time_and_id(description, placeholders)
    _check_keys(description)
    return description


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
        raise BadSchemeError("key: an Ed25519 public key is hex, base64 or whsec (base64 behind whpk_)")
    if it.ed25519_prefix and (it.key != "whsec" or not it.separator or it.algorithm == "ed25519"):
        raise BadSchemeError('ed25519_prefix is for an HMAC scheme with a separator and key = "whsec"')
    if it.timestamp_field and (it.prefix.startswith(it.timestamp_field) or it.timestamp_field.startswith(it.prefix)):
        raise BadSchemeError("prefix and timestamp_field must tell signatures and the time apart")
