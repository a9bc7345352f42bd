"""What a signature fits with: the body, the content, the secret and the spelling, changed as they are by accident.

The ingress' own verification is tried with each change, and with changes of two kinds at once. A mistake is named only
if the signature fits with it, and of several explanations those with the fewest changes. A change comes with the words
for it, which complete "it fits ..."; each kind begins with what was received or described, and no words.
"""

import base64
import binascii
import gzip
import json
import zlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import product
from typing import Any, Final, TypeVar

from deploy.signatures.captured import EndpointSecret, Headers
from deploy.signatures.secret_text import SecretTextError, clean_secret
from ingress.schemes.declared import ALGORITHMS, Declared, Description
from ingress.schemes.encodings import ENCODERS
from ingress.schemes.scheme import BadSchemeError, BadSignature, Key, WrongSecretError

H = TypeVar("H", bound=Hashable)

_MAX_UNPACKED: Final = 10 * 2**20
_GZIP: Final = 31  # zlib's name for its form
_PREFIXES: Final = (b"whsec_", b"whsk_", b"whpk_")
_SERIALISED: Final[Mapping[str, Mapping[str, object]]] = {
    "compact JSON": {"separators": (",", ":"), "ensure_ascii": False},
    "compact JSON with \\u escapes": {"separators": (",", ":")},
    "JSON with a space after , and :": {"ensure_ascii": False},
    "JSON with a space after , and : and \\u escapes": {},
    "compact JSON with sorted keys": {"separators": (",", ":"), "ensure_ascii": False, "sort_keys": True},
    "JSON with sorted keys": {"ensure_ascii": False, "sort_keys": True},
    "JSON indented by 2": {"indent": 2, "ensure_ascii": False},
    "JSON indented by 4": {"indent": 4, "ensure_ascii": False},
}


def find_mistakes(
    scheme: Declared, held: Sequence[EndpointSecret], headers: Headers, given: bytes, body: bytes
) -> Iterator[str]:
    """Try what usually goes wrong; say with which changes the signature fits, if they are the fewest that do.

    `given` is what the signature header holds.
    """
    fitting = [(one.label, words) for one in held for words in _find_fits(scheme, one, headers, given, body)]
    fewest = min((len(words) for _, words in fitting), default=0)
    for label, words in fitting:
        if words and len(words) == fewest:
            yield f"it fits {', '.join(words)} (secret {label})"


def _find_fits(
    scheme: Declared, one: EndpointSecret, headers: Headers, given: bytes, body: bytes
) -> Iterator[list[str]]:
    """Yield in words what has to be changed for this secret to fit."""
    try:
        own = scheme.read_key(label=one.label, text=one.text)
    except WrongSecretError:
        return
    contents = [(scheme.description, other, words) for other, words in _unique(_bodies(body)).items()]
    contents += [(other, body, words) for other, words in _unique(_contents(scheme.description)).items()][1:]
    keys = [(own, "")]
    if own.public_key is None:
        others = _unique(_secrets(one.text)).items()
        keys += [(replace(own, secret=other), words) for other, words in others if other not in {b"", own.secret}]
    spellings = list(_spellings(scheme.description, given.decode("latin-1"), is_public=own.public_key is not None))
    for (it, other, content), (key, secret), (spelling, spelt) in product(contents, keys, spellings):
        words = [text for text in (one.note and f"a secret that is {one.note}", secret, *spelt, content) if text]
        if not (content and secret and any(spelt)) and _fits(replace(it, **spelling), key, headers, other):
            yield words


def _fits(it: Description, key: Key, headers: Headers, body: bytes) -> bool:
    with suppress(BadSchemeError):
        verdict = Declared(it, {}).verify(keys=[key], headers=headers, body=body, now=0)
        return isinstance(verdict, Key) or verdict is BadSignature.STALE
    return False


def _bodies(body: bytes) -> Iterator[tuple[bytes, str]]:
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


def _contents(it: Description) -> Iterator[tuple[Description, str]]:
    """Yield descriptions with another template; a time and an id that are not in it are not looked for."""
    yield it, ""
    times = ("{timestamp}",) if it.timestamp or it.timestamp_field else ()
    ids = ("{id}",) if it.id else ()
    for template in (
        "{body}",
        *(f"{left}{between}{{body}}" for left in (*times, *ids) for between in (".", "", ":", "\n", "|")),
        *(f"{{body}}{between}{right}" for right in (*times, *ids) for between in (".", "", ":")),
        *(f"{one}.{two}.{{body}}" for one in times for two in ids),
    ):
        other = replace(it, content=template)
        if "{timestamp}" not in template:
            other = replace(other, timestamp=(), timestamp_field="")
        if "{id}" not in template:
            other = replace(other, id=())
        yield other, f"{template!r} as the signed content, not {it.content!r}"


def _secrets(text: bytes) -> Iterator[tuple[bytes, str]]:
    """Yield the bytes that a secret's text may stand for."""
    yield text, 'the secret\'s text as it is (key = "raw")'
    with suppress(SecretTextError):
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


def _spellings(it: Description, given: str, *, is_public: bool) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Yield fields that say how a signature is written, and the words for those that are changed."""
    algorithms = [it.algorithm] if is_public else [name for name, digest in ALGORITHMS.items() if digest]
    prefix_field = "ed25519_prefix" if is_public and it.ed25519_prefix else "prefix"
    prefixes = _unique(_prefixes(it, getattr(it, prefix_field), given))
    for algorithm, encoding, ((separator, prefix), words) in product(algorithms, ENCODERS, prefixes.items()):
        fields = {"algorithm": algorithm, "encoding": encoding, "separator": separator, prefix_field: prefix}
        changed = ((algorithm, it.algorithm), (encoding, it.encoding))
        yield fields, [*(f"{one}, not {other}" for one, other in changed if one != other), words]


def _prefixes(it: Description, own: str, given: str) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield separators of the signature header, and what stands in it before a text that may be a signature."""
    yield (it.separator, own), ""
    for separator in (it.separator, ",", " "):
        items = given.split(separator) if separator else [given]
        if separator != it.separator and len(items) == 1:
            continue
        listed = "" if separator == it.separator else f" in a list separated by {separator!r}"
        found = [(item.partition(end)[0] + end) for item in items for end in ("=", ",", ":", " ") if end in item]
        for prefix in found:
            yield (separator, prefix), f"with the prefix {prefix!r}{listed}, not {repr(own) if own else 'none'}"
        yield (separator, ""), (f"without the prefix {own!r}" if own else "") + listed


def _unique(changes: Iterable[tuple[H, str]]) -> dict[H, str]:
    """Return each changed thing once, with the words that came with it first."""
    found: dict[H, str] = {}
    for changed, words in changes:
        found.setdefault(changed, words)
    return found
