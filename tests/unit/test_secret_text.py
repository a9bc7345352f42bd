"""A secret as people paste it: what nobody sees around it goes, what nobody sees inside it is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.signatures.secret_text import SecretTextError, clean_secret

INVISIBLE = st.text(
    st.sampled_from("\ufeff\u00a0\u200b\u200c\u2060\u00ad\u200e \t\r\n\x00\x1f\x85\u2028\u3000"), max_size=5
)
VISIBLE = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=20)


@given(before=INVISIBLE, words=st.lists(VISIBLE, min_size=1, max_size=3), after=INVISIBLE)
def test_a_secret_is_what_is_seen_of_it(before: str, words: list[str], after: str) -> None:
    secret = " ".join(words)
    assert clean_secret((before + secret + after).encode()) == secret.encode()


@given(left=VISIBLE, hidden=st.sampled_from("\ufeff\u00a0\u200b\u00ad\n\t\x00"), right=VISIBLE)
def test_what_nobody_sees_inside_a_secret_is_refused_by_its_name_and_place(left: str, hidden: str, right: str) -> None:
    with pytest.raises(SecretTextError, match=rf"character {len(left) + 1} of the secret is U\+{ord(hidden):04X} "):
        clean_secret((left + hidden + right).encode())


@pytest.mark.parametrize("given", ["", " \n", "\ufeff", "\u200b\u00a0"])
def test_a_secret_of_which_nothing_is_seen_is_empty(given: str) -> None:
    with pytest.raises(SecretTextError, match="the secret is empty"):
        clean_secret(given.encode())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_utf_16_is_refused(encoding: str) -> None:
    with pytest.raises(SecretTextError, match=r"UTF-16|U\+0000"):
        clean_secret("whsec_c2VD".encode(encoding))


def test_bytes_that_are_no_text_are_kept() -> None:
    assert clean_secret(b" \xff\xfa ") == b" \xff\xfa "
