"""Properties of the Moveris scheme; those of the others are in test_schemes_properties.py."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingress.schemes import find
from ingress.schemes.scheme import BadSchemeError, BadSignature, Key

SCHEMES = pytest.mark.parametrize("name", ["moveris"])
HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"x-webhook-signature", b"x-webhook-event", b"authorization"]) | st.binary(max_size=20),
        st.binary(max_size=100) | st.from_regex(rb"sha256=[0-9a-fA-F]{60,70}", fullmatch=True),
    ),
    max_size=4,
)


def as_asgi(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


@SCHEMES
@given(secret=st.binary(min_size=1), body=st.binary())
def test_what_is_signed_verifies(name: str, secret: bytes, body: bytes) -> None:
    scheme, key = find(name), Key(label="a", secret=secret)
    assert (
        scheme.verify(keys=[key], headers=as_asgi(scheme.sign(secret, body, now=0, event_id="")), body=body, now=0)
        is key
    )


@SCHEMES
@given(headers=HEADERS, body=st.binary())
@example(headers=[(b"x-webhook-signature", "sha256=ü".encode())], body=b"")
@example(headers=[(b"x-webhook-signature", b"")] * 2, body=b"")
def test_no_header_raises_or_verifies(name: str, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    keys = [Key(label="a", secret=b"a secret that nobody guesses"), Key(label="b", secret=b"another")]
    assert isinstance(find(name).verify(keys=keys, headers=headers, body=body, now=0), BadSignature)


@SCHEMES
@given(secret=st.binary(min_size=1), body=st.binary(min_size=1), data=st.data())
def test_any_changed_byte_is_refused(name: str, secret: bytes, body: bytes, data: st.DataObject) -> None:
    scheme, key = find(name), Key(label="a", secret=secret)
    headers = as_asgi(scheme.sign(secret, body, now=0, event_id=""))
    texts = [body, *(value for _, value in headers)]
    which = data.draw(st.integers(0, len(texts) - 1))
    where = data.draw(st.integers(0, len(texts[which]) - 1))
    changed = bytearray(texts[which])
    changed[where] ^= data.draw(st.integers(1, 255))
    texts[which] = bytes(changed)
    new_headers = [(header, value) for (header, _), value in zip(headers, texts[1:], strict=True)]
    assert isinstance(scheme.verify(keys=[key], headers=new_headers, body=texts[0], now=0), BadSignature)


def test_an_unknown_scheme_names_those_there_are() -> None:
    with pytest.raises(BadSchemeError, match=r"there are: .*moveris"):
        find("morse")


def test_a_key_does_not_show_its_secret() -> None:
    assert "s3cret" not in repr(Key(label="a", secret=b"s3cret"))
