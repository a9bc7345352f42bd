"""GitHub and Meta: the published vector, and what GitHub's own library signed (recorded, see fixtures/README.md)."""

from __future__ import annotations

import gzip
import json
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from ingress.schemes import find
from ingress.schemes.scheme import BadSignature, Key

if TYPE_CHECKING:
    from ingress.schemes import Scheme

github, meta = find("github"), find("meta")

KEY: Final = Key(label="a", secret=b"It's a Secret to Everybody")
RECORDED: Final = Path(__file__).parent / "fixtures" / "github.jsonl.gz"
PUBLISHED: Final = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"


def headers(signature: str) -> list[tuple[bytes, bytes]]:
    """Return what GitHub sends: the old signature beside the new one."""
    return [(b"x-hub-signature", b"sha1=" + b"0" * 40), (b"x-hub-signature-256", signature.encode())]


@pytest.mark.parametrize("scheme", [github, meta])
def test_the_published_vector_verifies(scheme: Scheme) -> None:
    assert scheme.verify(keys=[KEY], headers=headers(PUBLISHED), body=b"Hello, World!", now=0) is KEY
    assert scheme.sign(KEY.secret, b"Hello, World!", now=0, event_id="") == {"X-Hub-Signature-256": PUBLISHED}


def test_all_that_githubs_own_library_signed_verifies() -> None:
    with gzip.open(RECORDED, "rt", encoding="utf-8") as lines:
        recorded = [json.loads(line) for line in lines]
    assert len(recorded) == 329
    for one in recorded:
        body, key = one["body"].encode(), Key(label="a", secret=one["secret"].encode())
        assert sha256(body).hexdigest() == one["sha256"]
        assert github.verify(keys=[KEY, key], headers=headers(one["signature"]), body=body, now=0) in (KEY, key)
        assert github.sign(key.secret, body, now=0, event_id="") == {"X-Hub-Signature-256": one["signature"]}
        assert (
            github.verify(keys=[key], headers=headers(one["signature"]), body=body + b"\n", now=0)
            is BadSignature.INVALID
        )


def test_a_signature_of_sha_1_alone_is_missing_one() -> None:
    assert (
        github.verify(keys=[KEY], headers=headers(PUBLISHED)[:1], body=b"Hello, World!", now=0) is BadSignature.MISSING
    )
