"""Passwords of the console's people, as hashes by Argon2id with the parameters that argon2-cffi takes today.

Guarantees: a check takes as long for somebody whom there is not, or who has no password, as for others; at most
`AT_ONCE` are made at a time, each of which takes 64 MiB of memory.
"""

import secrets
import threading
import unicodedata
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from workers.store.refusals import BadPasswordError

LEAST_CHARACTERS: Final = 12
MOST_CHARACTERS: Final = 1000
AT_ONCE: Final = 2

_HASHER: Final = PasswordHasher()
_NOBODYS: Final = _HASHER.hash(secrets.token_urlsafe())
_turns: Final = threading.BoundedSemaphore(AT_ONCE)


def hash_password(password: str) -> str:
    """Return the hash of a new password.

    Raises:
        BadPasswordError: it is too short or too long, or has white space around it, which a form or a shell may lose.
    """
    if password != password.strip():
        raise BadPasswordError("the password has white space around it: leave that out")
    if len(password) < LEAST_CHARACTERS:
        raise BadPasswordError(f"the password has {len(password)} characters: take at least {LEAST_CHARACTERS}")
    if len(password) > MOST_CHARACTERS:
        raise BadPasswordError(f"the password has {len(password)} characters: take at most {MOST_CHARACTERS}")
    with _turns:
        return _HASHER.hash(_encode(password))


def is_right(password: str, known: str | None) -> bool:
    """Return whether a password is the one of this hash; None stands for somebody who has none."""
    try:
        with _turns:
            _HASHER.verify(known or _NOBODYS, _encode(password[: MOST_CHARACTERS + 1]))
    except (VerifyMismatchError, InvalidHashError):
        return False
    return known is not None


def rehash(password: str, known: str) -> str | None:
    """Return another hash of a password that is right, if this one was made with other parameters than today's."""
    if not _HASHER.check_needs_rehash(known):
        return None
    with _turns:
        return _HASHER.hash(_encode(password))


def _encode(password: str) -> bytes:
    """Return the bytes that are hashed: one form of letters that keyboards compose differently."""
    return unicodedata.normalize("NFKC", password).encode(errors="surrogatepass")
