"""Passwords of the console."""

from __future__ import annotations

import time

import argon2
import pytest

from deploy.console.passwords import MOST_CHARACTERS, hash_password, is_right, rehash
from workers.store.refusals import BadPasswordError

PASSWORD = "correct horse battery"


def test_a_password_is_right_for_its_own_hash_only() -> None:
    known = hash_password(PASSWORD)
    assert known.startswith("$argon2id$")
    assert known != hash_password(PASSWORD), "each has a salt of its own"
    assert is_right(PASSWORD, known)
    assert not is_right(PASSWORD + "x", known)
    assert not is_right("", known)
    assert not is_right(PASSWORD, None)
    assert not is_right(PASSWORD, "no hash")


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("x" * 11, "has 11 characters: take at least 12"),
        ("x" * (MOST_CHARACTERS + 1), "at most 1000"),
        (" correct horse battery", "white space around"),
        ("correct horse battery\n", "white space around"),
    ],
)
def test_a_password_that_is_too_short_or_cannot_be_typed_again_is_refused(password: str, reason: str) -> None:
    with pytest.raises(BadPasswordError, match=reason) as caught:
        hash_password(password)
    assert password.strip() not in str(caught.value)


def test_a_password_of_the_least_and_of_the_greatest_length_is_taken() -> None:
    for password in ("x" * 12, "x" * MOST_CHARACTERS):
        assert is_right(password, hash_password(password))
    assert not is_right("x" * (MOST_CHARACTERS + 1), hash_password("x" * MOST_CHARACTERS))


def test_a_letter_that_another_keyboard_composes_is_the_same_letter() -> None:
    assert is_right("cafe\u0301 au lait noir", hash_password("caf\u00e9 au lait noir"))


def test_what_no_encoding_takes_is_wrong_and_no_failure() -> None:
    assert not is_right("\ud800\x00 and more", hash_password(PASSWORD))


def test_a_hash_of_other_parameters_is_made_anew() -> None:
    weak = argon2.PasswordHasher(time_cost=1, memory_cost=1024).hash(PASSWORD)
    assert is_right(PASSWORD, weak)
    renewed = rehash(PASSWORD, weak)
    assert renewed is not None
    assert is_right(PASSWORD, renewed)
    assert rehash(PASSWORD, renewed) is None


def test_a_check_of_nobody_takes_as_long_as_of_somebody() -> None:
    known = hash_password(PASSWORD)

    def least_seconds(of: str | None) -> float:
        """Return the seconds of CPU, whatever else the machine does."""
        times = []
        for _ in range(5):
            began = time.process_time()
            is_right("wrong horse battery", of)
            times.append(time.process_time() - began)
        return min(times)

    assert least_seconds(None) > least_seconds(known) / 2
