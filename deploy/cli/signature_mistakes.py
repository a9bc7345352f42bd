"""What a signature fits with: the body, the secret, the content and the spelling, changed as they are by accident.

A mistake is named only if the signature fits with it. Of several explanations, those with the fewest changes are named.
The changes of each kind are pairs of the changed thing and the words for it, which complete "it fits ..."; the thing
itself comes first, with no words.
"""

import base64
import binascii
import gzip
import hmac
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from typing import Final, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from deploy.cli.errors import CommandError
from deploy.cli.secret_input import clean_secret
from ingress.schemes.content import Template
from ingress.schemes.declared import ALGORITHMS, Declared, Description
from ingress.schemes.encodings import ENCODERS, decode
from ingress.schemes.scheme import BadSchemeError, WrongSecretError

Change = tuple[bytes, str]

T = TypeVar("T")

_MAX_UNPACKED: Final = 10 * 2**20
_GZIP: Final = 31  # zlib's name for its form
_PREFIXES: Final = (b"whsec_", b"whsk_", b"whpk_")
_SERIALISED: Final[Mapping[str, Mapping[str, object]]] = {
    "compact JSON": {"separators": (",", ":"), "ensure_ascii": False},
    "compact JSON with \\u escapes": {"separators": (",", ":")},
    "JSON with a space behind , and :": {"ensure_ascii": False},
    "JSON with a space behind , and : and \\u escapes": {},
    "compact JSON with sorted keys": {"separators": (",", ":"), "ensure_ascii": False, "sort_keys": True},
    "JSON with sorted keys": {"ensure_ascii": False, "sort_keys": True},
    "JSON indented by 2": {"indent": 2, "ensure_ascii": False},
    "JSON indented by 4": {"indent": 4, "ensure_ascii": False},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSecret:
    """A secret of the endpoint, in clear; `note` says why it may not sign now, if so."""

    label: str
    text: bytes = field(repr=False)
    note: str = ""


class Values:
    """What a request holds for the placeholders of a template."""

    def __init__(self, it: Description, found: Mapping[bytes, bytes], given: bytes) -> None:
        self._url = it.url
        self._has_iso_time = it.timestamp_unit == "iso8601"
        self._found = found
        self.event_id = _first(found, it.id)
        self.timestamp = _first(found, it.timestamp)
        if it.timestamp_field:
            field = it.timestamp_field.encode()
            items = [item for item in given.split(it.separator.encode()) if item.strip().startswith(field)]
            self.timestamp = items[0].strip().removeprefix(field) if items else b""

    def fill(self, template: str, body: bytes) -> bytes | None:
        """Return the signed content of a template, None if it cannot be made."""
        try:
            made = Template(template, url=self._url, has_iso_time=self._has_iso_time)
        except BadSchemeError:
            return None
        return made.fill(body=body, timestamp=self.timestamp, event_id=self.event_id, headers=self._found)


def find_mistakes(
    it: Description, held: Sequence[EndpointSecret], values: Values, given: bytes, body: bytes
) -> Iterator[str]:
    """Try what usually goes wrong; say with which changes the signature fits, if they are the fewest that do."""
    signatures = _unique(_signatures(given, it))
    fitting = [(one, words) for one in held for words in _fits(it, one, values, signatures, body)]
    fewest = min((len(words) for _, words in fitting), default=0)
    for one, words in fitting:
        if words and len(words) == fewest:
            yield f"it fits {', '.join(words)} (secret {one.label})"


def _fits(
    it: Description, one: EndpointSecret, values: Values, signatures: Mapping[bytes, str], body: bytes
) -> Iterator[tuple[str, ...]]:
    """Yield in words what has to be changed for this secret to fit."""
    try:
        own = Declared(it, {}).read_key(label=one.label, text=one.text)
    except WrongSecretError:
        return
    keys = {own.secret: ""} | {
        key: words for key, words in _unique(_keys(one.text)).items() if key not in {b"", own.secret}
    }
    age = one.note and f"a secret that is {one.note}"
    for content, content_words in _contents(it, values, body):
        found = (
            _ed25519(own.public_key, content, signatures) if own.public_key else _hmac(it, keys, content, signatures)
        )
        for signature, *words in found:
            everything = (age, *words, content_words, _about_prefix(signatures[signature], it))
            yield tuple(it for it in everything if it)


def _hmac(
    it: Description, keys: Mapping[bytes, str], content: bytes, signatures: Mapping[bytes, str]
) -> Iterator[tuple[bytes, str, str, str]]:
    """Yield which signature fits, and how secret, algorithm and encoding differ from the scheme's."""
    for (key, key_words), (algorithm, digest) in product(keys.items(), ALGORITHMS.items()):
        if not digest:
            continue
        made = hmac.digest(key, content, digest)
        for text, encoding in _unique((encode(made), name) for name, encode in ENCODERS.items()).items():
            if text in signatures:
                other = "" if algorithm == it.algorithm else f"{algorithm}, not {it.algorithm}"
                yield text, key_words, other, "" if encoding == it.encoding else f"{encoding}, not {it.encoding}"


def _ed25519(key: Ed25519PublicKey, content: bytes, signatures: Iterable[bytes]) -> Iterator[tuple[bytes]]:
    """Yield which signature fits."""
    for text, encoding in product(signatures, ENCODERS):
        signature = decode(text, encoding)
        if signature is not None:
            with suppress(InvalidSignature):
                key.verify(signature, content)
                yield (text,)


def _about_prefix(before: str, it: Description) -> str:
    if before == it.prefix or (before and before == it.ed25519_prefix) or (it.prefix and before.endswith(it.prefix)):
        return ""
    if not before:
        return f"without the prefix {it.prefix!r}"
    return f"behind {before!r}, not behind {it.prefix!r}" if it.prefix else f"behind {before!r}, not alone"


def _contents(it: Description, values: Values, body: bytes) -> Iterator[Change]:
    """Yield what may have been signed: another body, or another template."""
    changed = [(it.content, other, words) for other, words in _unique(_bodies(body)).items()]
    changed += [(template, body, words) for template, words in _unique(_templates(it)).items() if words]
    for template, other, words in changed:
        content = values.fill(template, other)
        if content is not None:
            yield content, words


def _bodies(body: bytes) -> Iterator[Change]:
    yield body, ""
    without = body.rstrip(b"\r\n")
    yield without, "the body without the newline at its end: something added one"
    for end in (b"\n", b"\r\n"):
        yield without + end, "the body with a newline at its end: something took it away"
    unix = body.replace(b"\r\n", b"\n")
    yield unix, "the body with Unix line ends: something changed them"
    yield unix.replace(b"\n", b"\r\n"), "the body with Windows line ends: something changed them"
    yield body.strip(), "the body without white space around it"
    yield body.removeprefix(b"\xef\xbb\xbf"), "the body without its byte-order mark: something added one"
    yield b"\xef\xbb\xbf" + body, "the body with a byte-order mark: something took it away"
    yield b"", "an empty body: the sender signed before the body was there"
    with suppress(UnicodeError):
        yield body.decode("utf-8").encode("latin-1"), "the body as Latin-1: something made UTF-8 of it"
    yield body.decode("latin-1").encode("utf-8"), "the body as UTF-8, taken for Latin-1 before"
    if body.startswith(b"\x1f\x8b"):
        with suppress(zlib.error):
            unpacked = zlib.decompressobj(_GZIP).decompress(body, _MAX_UNPACKED)
            yield unpacked, "the body unpacked: the sender packed it later"
    else:
        yield gzip.compress(body, mtime=0), "the body packed by gzip"
    with suppress(ValueError, RecursionError):
        tree = json.loads(body)
        for (name, style), (end, more) in product(_SERIALISED.items(), ((b"", ""), (b"\n", " and a newline"))):
            written = json.dumps(tree, **style).encode() + end  # type: ignore[arg-type]  # options by name
            yield written, f"the body as {name}{more}: something parsed it and wrote it again; keep the raw bytes"


def _templates(it: Description) -> Iterator[tuple[str, str]]:
    yield it.content, ""
    times = ("{timestamp}",) if it.timestamp or it.timestamp_field else ()
    ids = ("{id}",) if it.id else ()
    for template in (
        "{body}",
        *(f"{left}{between}{{body}}" for left in (*times, *ids) for between in (".", "", ":", "\n", "|")),
        *(f"{{body}}{between}{right}" for right in (*times, *ids) for between in (".", "", ":")),
        *(f"{one}.{two}.{{body}}" for one in times for two in ids),
    ):
        yield template, f"{template!r} as the signed content, not {it.content!r}"


def _keys(text: bytes) -> Iterator[Change]:
    """Yield the keys that a secret's text may stand for."""
    yield text, 'the secret\'s text as it is (key = "raw")'
    with suppress(CommandError):
        yield clean_secret(text), "the secret without the invisible characters around it: add it again"
    prefix = next((it for it in _PREFIXES if text.startswith(it)), b"")
    rest = text.removeprefix(prefix)
    if prefix:
        yield rest, f"the secret's text without {prefix.decode()}"
    for part in (text, rest):
        with suppress(ValueError):
            yield binascii.unhexlify(part), 'the secret read as hexadecimal (key = "hex")'
        padded = part + b"=" * (-len(part) % 4)
        for altchars, name in ((None, "base64"), (b"-_", "base64url")):
            with suppress(ValueError):
                words = f'the secret read as {name} (key = "{"whsec" if prefix else "base64"}")'
                yield base64.b64decode(padded, altchars, validate=True), words
    for end in (b"\n", b"\r\n", b" "):
        yield text + end, "the secret with white space at its end: the sender's copy has it"
    for quote in (b'"', b"'"):
        yield quote + text + quote, "the secret in quotes: the sender's copy has them"
        yield text.strip(quote), "the secret without the quotes around it"


def _signatures(given: bytes, it: Description) -> Iterator[Change]:
    """Yield the texts in a signature header that may be a digest, with what stood before each."""
    for piece in (given, *given.split(it.separator.encode() or b","), *given.split(b" "), *given.split(b",")):
        for separator in (b"=", b",", b":", b" "):
            before, found, rest = piece.strip().partition(separator)
            if found and rest.strip(b"="):
                yield rest.strip(b"\"' "), (before + separator).decode("latin-1")
        yield piece.strip().strip(b"\"'"), ""


def _unique(changes: Iterable[tuple[T, str]]) -> dict[T, str]:
    """Return each changed thing once, with the words that came with it first."""
    found: dict[T, str] = {}
    for changed, words in changes:
        found.setdefault(changed, words)
    return found


def _first(found: Mapping[bytes, bytes], names: Sequence[str]) -> bytes:
    return next((found[name.lower().encode()] for name in names if name.lower().encode() in found), b"")
