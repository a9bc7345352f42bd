"""Microseconds that each signature scheme takes, beside the bare HMAC of the same bytes, in one run.

    python tests/benchmarks/schemes.py

Verification must stay a small part of a request: it ends with status 1 if a scheme costs more than twice the bare HMAC
plus 10 us (Ed25519, which hashes with SHA-512 and does arithmetic on a curve, is only shown).
"""

from __future__ import annotations

import base64
import hmac
import sys
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ingress.schemes import PRESETS, compose
from ingress.schemes.scheme import Key

if TYPE_CHECKING:
    from collections.abc import Callable

    from ingress.schemes import Scheme

SIZES: Final = (1_000, 100_000)
ROUNDS: Final = 100
SECONDS_PER_ROUND: Final = 0.002
FACTOR: Final = 2.0
ALLOWANCE: Final = 10.0
"""Microseconds on top."""
SECRET: Final = b"whsec_" + base64.b64encode(b"0123456789abcdef01234567")
NOW: Final = 1_700_000_000
# What a proxy and a provider usually send besides; each scheme has to look through them.
OTHER_HEADERS: Final = [
    (name, b"some value of a usual length")
    for name in (
        *(b"host", b"user-agent", b"accept", b"accept-encoding", b"content-type", b"content-length", b"x-request-id"),
        *(b"x-forwarded-for", b"x-forwarded-proto", b"traceparent"),
    )
]
DESCRIBED: Final = {
    "header": "X-Acme-Signature",
    "algorithm": "hmac-sha256",
    "encoding": "base64",
    "content": "{timestamp}.{body}",
    "timestamp": "X-Acme-Timestamp",
}


def prepare(scheme: Scheme, signing: bytes, held: bytes, body: bytes) -> Callable[[], object]:
    """Return one verification of a request that is right."""
    key = scheme.read_key(label="main", text=held)
    signed = scheme.sign(signing, body, now=NOW, event_id="msg_1")
    headers = [*OTHER_HEADERS, *((name.lower().encode(), value.encode()) for name, value in signed.items())]
    verify = partial(scheme.verify, keys=(key,), headers=headers, body=body, now=NOW)
    if not isinstance(verify(), Key):
        raise SystemExit("a signature of our own does not verify")
    return verify


def candidates(body: bytes) -> dict[str, Callable[[], object]]:
    """Return what is measured, the bare HMAC first."""
    private = Ed25519PrivateKey.generate()
    public = b"whpk_" + base64.b64encode(private.public_key().public_bytes_raw())
    found: dict[str, Callable[[], object]] = {"bare HMAC": partial(hmac.digest, SECRET, body, "sha256")}
    for name, scheme in PRESETS.items():
        if name != "none":
            found[name] = prepare(scheme, SECRET, SECRET, body)
    found["described"] = prepare(compose(DESCRIBED), SECRET, SECRET, body)
    whsk = b"whsk_" + base64.b64encode(private.private_bytes_raw())
    found["standard-webhooks v1a"] = prepare(PRESETS["standard-webhooks"], whsk, public, body)
    return found


def measure(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return microseconds per call in the fastest round: a busy machine only adds. All take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            count, started = 0, perf_counter()
            while (elapsed := perf_counter() - started) < SECONDS_PER_ROUND:
                call()
                count += 1
            times[name].append(elapsed / count * 1e6)
    return {name: min(values) for name, values in times.items()}


def main() -> int:
    """Print the table; return 1 if a scheme costs too much."""
    figures = {size: measure(candidates(b"x" * size)) for size in SIZES}
    print(f"{'scheme':24}" + "".join(f"{size:>10,} B  times bare" for size in SIZES))
    too_much = []
    for name in figures[SIZES[0]]:
        line = f"{name:24}"
        for size in SIZES:
            bare, taken = figures[size]["bare HMAC"], figures[size][name]
            line += f"{taken:9.1f} us  {taken / bare:10.2f}"
            if taken > FACTOR * bare + ALLOWANCE and not name.endswith("v1a"):
                too_much.append(f"{name} at {size:,} B: {taken:.1f} us, bare {bare:.1f} us")
        print(line)
    for line in too_much:
        print(f"too much: {line}")
    return 1 if too_much else 0


if __name__ == "__main__":
    sys.exit(main())
