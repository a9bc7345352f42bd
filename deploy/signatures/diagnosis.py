"""Why a signature fails: verified as the ingress would, then explained by trying what usually goes wrong.

Signatures and secrets are shown masked, because the right signature of a body is as good as a secret.
"""

import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from deploy.signatures.captured import EndpointSecret, Headers
from deploy.signatures.mistakes import find_mistakes
from ingress.schemes import DECLARED
from ingress.schemes.declared import ALGORITHMS, Declared, Description, first, read_time
from ingress.schemes.encodings import ENCODERS
from ingress.schemes.scheme import BadSignature, Key, WrongSecretError

_SHOWN: Final = 6
_MOST_CAUSES: Final = 3
_TIMES: Final = {
    "s": "whole seconds, such as 1614265330",
    "ms": "whole milliseconds, such as 1614265330123",
    "iso8601": "RFC 3339 has it, such as 2021-02-25T15:02:10Z",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One secret that was tried: what the header had to hold, masked."""

    label: str
    expected: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What the ingress would answer, and why.

    Attributes:
        code: "verified", or the code of the refusal.
        label: of the secret that signed; empty if none did.
        header: name of the signature header that counts.
        given: what it holds, masked.
        signed_length: bytes of the signed content; None if it cannot be put together.
        tried: the secrets.
        causes: what is wrong, the likeliest first.
    """

    code: str
    label: str
    header: str
    given: str
    signed_length: int | None
    tried: tuple[Tried, ...]
    causes: tuple[str, ...]


def diagnose(
    scheme: Declared, held: Sequence[EndpointSecret], *, headers: Headers, body: bytes, now: float
) -> Diagnosis:
    """Explain one request.

    Args:
        scheme: of the endpoint.
        held: its secrets, those that have expired too.
        headers: as received, names in lower case.
        body: exactly as received.
        now: Unix seconds.
    """
    it = scheme.description
    keys = {one.label: scheme.read_key(label=one.label, text=one.text) for one in held}
    alive = [keys[one.label] for one in held if not one.note]
    verdict = scheme.verify(keys=alive, headers=headers, body=body, now=now)
    found = dict(headers)
    header = next((name for name in it.header if name.lower().encode() in found), it.header[0])
    given = found.get(header.lower().encode(), b"")
    timestamp = scheme.read_timestamp(found, given.split(it.separator.encode()) if it.separator else [given])
    event_id = first(found, scheme.signed_ids)
    content = scheme.template.fill(body=body, timestamp=timestamp, event_id=event_id, headers=found)
    causes: list[str] = []
    if isinstance(verdict, BadSignature):
        causes = [*_about_headers(it, headers, header, given), *_about_time(it, timestamp, now)]
        if given:
            causes += list(dict.fromkeys(find_mistakes(scheme, held, headers, given, body)))[:_MOST_CAUSES]
        causes += _about_other_schemes(scheme, held, headers, body, now)
    return Diagnosis(
        code=verdict.value if isinstance(verdict, BadSignature) else "verified",
        label="" if isinstance(verdict, BadSignature) else verdict.label,
        header=header,
        given=mask(given),
        signed_length=None if content is None else len(content),
        tried=tuple(
            Tried(label=one.label, expected=_expected(it, keys[one.label], content), note=one.note) for one in held
        ),
        causes=tuple(causes),
    )


def mask(text: bytes) -> str:
    """Return the beginning of a signature and its length, with a prefix such as "sha256=" or "t=1614265330,v1="."""
    if not text:
        return "(nothing)"
    longest = 40
    at = max(text.rfind(separator, 0, longest) for separator in (b"=", b","))
    prefix = at + 1 if at < len(text) - longest // 2 else 0
    shown = text[: _SHOWN + prefix].decode("latin-1")
    printable = "".join(character if character.isprintable() else "?" for character in shown)
    return f"{printable}... ({len(text)} characters)"


def _expected(it: Description, key: Key, content: bytes | None) -> str:
    if content is None:
        return "cannot be computed: a header of the signed content is missing"
    if key.public_key is not None:
        return f"an Ed25519 signature in {it.encoding} after {it.ed25519_prefix or it.prefix!r}"
    text = it.prefix.encode() + ENCODERS[it.encoding](hmac.digest(key.secret, content, ALGORITHMS[it.algorithm]))
    return f"{mask(text)}, {it.algorithm} in {it.encoding}"


def _about_headers(it: Description, headers: Headers, header: str, given: bytes) -> Iterator[str]:
    """Say what is wrong with the headers, whatever they hold."""
    names = [name for name, _ in headers]
    for name in (*it.header, *it.timestamp, *it.id):
        if names.count(name.lower().encode()) > 1:
            yield f"{name} comes twice; whoever adds one must not choose the one that counts"
    if not given:
        similar = [name.decode("latin-1") for name in names if b"signature" in name or b"hmac" in name]
        others = f"; there is {', '.join(dict.fromkeys(similar))}" if similar else ""
        yield f"{header} is missing or empty{others}: does a proxy in between drop it?"
    for what, sources in (("timestamp", it.timestamp), ("id", it.id)):
        if sources and not any(name.lower().encode() in names for name in sources):
            yield f"the {what} is missing: {' or '.join(sources)}"


def _about_time(it: Description, text: bytes, now: float) -> Iterator[str]:
    unit = it.timestamp_unit
    if not text:
        return
    moment = read_time(text, unit)
    if moment is None:
        yield f"the time {text[:40].decode('latin-1')!r} is not written as {_TIMES[unit]}"
        return
    off = now - moment
    if abs(off) <= it.tolerance:
        return
    for other, name in (("ms", "milliseconds"), ("s", "seconds")):
        meant = read_time(text, other)
        if meant is not None and abs(now - meant) <= it.tolerance:
            yield f'the time counts {name}: set timestamp_unit = "{other}"'
            return
    way = "old: a replay, a slow queue, or a capture from then (judge it with --at)" if off > 0 else "in the future"
    yield f"the signed time is {abs(off):,.0f} s {way}; the tolerance is {it.tolerance} s, and clocks may be wrong"


def _about_other_schemes(
    scheme: Declared, held: Sequence[EndpointSecret], headers: Headers, body: bytes, now: float
) -> Iterator[str]:
    """Say which preset signs like this, if one does."""
    for name, other in DECLARED.items():
        for one in held if other is not scheme else ():
            try:
                key = other.read_key(label=one.label, text=one.text)
            except WrongSecretError:
                continue
            verdict = other.verify(keys=[key], headers=headers, body=body, now=now)
            if isinstance(verdict, Key) or verdict is BadSignature.STALE:
                yield f"this is how `{name}` signs, with the secret {one.label}: change the endpoint's scheme to it"
