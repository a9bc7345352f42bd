"""What a signature fits with: the body, the secret, the content and the spelling, changed as they are by accident.

What is said was tried, and the signature fits with it. Of several explanations, those with the fewest changes are said.
"""

from __future__ import annotations

import hmac
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature

from deploy.cli import variations
from ingress.schemes.content import Template
from ingress.schemes.declared import ALGORITHMS, Declared
from ingress.schemes.encodings import ENCODERS, decode
from ingress.schemes.scheme import BadSchemeError, WrongSecretError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from ingress.schemes.declared import Description
    from ingress.schemes.scheme import Key


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
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


def try_changes(it: Description, held: Sequence[Held], values: Values, given: bytes, body: bytes) -> Iterator[str]:
    """Try what usually goes wrong; say with which changes the signature fits, if they are the fewest that do."""
    texts = variations.texts(given, it)
    fitting = [(one, words) for one in held for words in _fits(it, one, values, texts, body)]
    fewest = min((len(words) for _, words in fitting), default=0)
    for one, words in fitting:
        if words and len(words) == fewest:
            yield f"it fits {', '.join(words)} (secret {one.label})"


def _fits(
    it: Description, one: Held, values: Values, texts: Mapping[bytes, str], body: bytes
) -> Iterator[tuple[str, ...]]:
    """Yield in words what has to be changed for this secret to fit."""
    try:
        own = Declared(it, {}).read_key(label=one.label, text=one.text)
    except WrongSecretError:
        return
    age = one.note and f"a secret that is {one.note}"
    for content, content_words in _contents(it, values, body):
        found = _ed25519(own.public_key, content, texts) if own.public_key else _hmac(it, own, one.text, content, texts)
        for text, *words in found:
            everything = (age, *words, content_words, _about_prefix(texts[text], it))
            yield tuple(it for it in everything if it)


def _contents(it: Description, values: Values, body: bytes) -> Iterator[tuple[bytes, str]]:
    """Yield what may have been signed: another body, or another template."""
    changed = [(it.content, other, words) for other, words in variations.bodies(body).items()]
    changed += [(template, body, words) for template, words in variations.contents(it).items() if words]
    for template, other, words in changed:
        content = values.fill(template, other)
        if content is not None:
            yield content, words


def _hmac(
    it: Description, own: Key, secret: bytes, content: bytes, texts: Mapping[bytes, str]
) -> Iterator[tuple[bytes, str, str, str]]:
    """Yield which text fits, and how secret, algorithm and encoding differ from the scheme's."""
    keys = {own.secret: ""} | {key: words for key, words in variations.secrets(secret).items() if key != own.secret}
    for (key, key_words), (algorithm, digest) in product(keys.items(), ALGORITHMS.items()):
        if digest:
            for text, encoding in variations.spellings(hmac.digest(key, content, digest)).items():
                if text in texts:
                    yield (
                        text,
                        key_words,
                        "" if algorithm == it.algorithm else f"{algorithm}, not {it.algorithm}",
                        "" if encoding == it.encoding else f"{encoding}, not {it.encoding}",
                    )


def _ed25519(key: Ed25519PublicKey, content: bytes, texts: Mapping[bytes, str]) -> Iterator[tuple[bytes]]:
    """Yield which text fits."""
    for text, encoding in product(texts, ENCODERS):
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


def _first(found: Mapping[bytes, bytes], names: Sequence[str]) -> bytes:
    return next((found[name.lower().encode()] for name in names if name.lower().encode() in found), b"")
