"""Ways in which a signature, a body or a secret is changed by accident, each with the words for it.

The first of each kind is the thing itself, unchanged, with no words. What does not apply to a body or a secret is left
out.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from deploy.cli.arguments import clean_secret
from deploy.cli.errors import CommandError
from ingress.schemes.encodings import ENCODERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ingress.schemes.declared import Description

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

Variation = tuple[bytes, str]
"""The changed bytes, and what was done, as the end of "it fits ..."; empty for the thing itself."""


def bodies(body: bytes) -> dict[bytes, str]:
    """Return the bodies that may have been signed instead of this one."""
    found: dict[bytes, str] = {body: ""}
    for changed, words in _bodies(body):
        found.setdefault(changed, words)
    return found


def _bodies(body: bytes) -> Iterator[Variation]:
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
        for name, style in _SERIALISED.items():
            written = json.dumps(tree, **style).encode()  # type: ignore[arg-type]  # options by name
            for end, more in ((b"", ""), (b"\n", " and a newline")):
                yield (
                    written + end,
                    f"the body as {name}{more}: something parsed it and wrote it again; keep the raw bytes",
                )


def secrets(text: bytes) -> dict[bytes, str]:
    """Return the keys that a secret's text may stand for, the text itself first."""
    found: dict[bytes, str] = {text: 'the secret\'s text as it is (key = "raw")'}
    for changed, words in _secrets(text):
        if changed:
            found.setdefault(changed, words)
    return found


def _secrets(text: bytes) -> Iterator[Variation]:
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


def contents(it: Description) -> dict[str, str]:
    """Return the templates of what may have been signed, the declared one first."""
    found = {it.content: ""}
    times = ("{timestamp}",) if it.timestamp or it.timestamp_field else ()
    ids = ("{id}",) if it.id else ()
    for template in (
        "{body}",
        *(f"{left}{between}{{body}}" for left in (*times, *ids) for between in (".", "", ":", "\n", "|")),
        *(f"{{body}}{between}{right}" for right in (*times, *ids) for between in (".", "", ":")),
        *(f"{one}.{two}.{{body}}" for one in times for two in ids),
    ):
        found.setdefault(template, f"{template!r} as the signed content, not {it.content!r}")
    return found


def spellings(digest: bytes) -> dict[bytes, str]:
    """Return how a digest may be written, by the names of encodings."""
    return {encode(digest): name for name, encode in reversed(list(ENCODERS.items()))}


def texts(given: bytes, it: Description) -> dict[bytes, str]:
    """Return the texts in a signature header that may be a digest, with what stood before each."""
    found: dict[bytes, str] = {}
    pieces = [given, *given.split(it.separator.encode() or b","), *given.split(b" "), *given.split(b",")]
    for piece in (piece.strip() for piece in pieces):
        for separator in (b"=", b",", b":", b" "):
            before, found_one, rest = piece.partition(separator)
            if found_one and rest.strip(b"="):
                found.setdefault(rest.strip(b"\"' "), (before + separator).decode("latin-1"))
        found.setdefault(piece.strip(b"\"'"), "")
    return found
