"""A secret as a person gives it: read without showing it, and without what copying and pasting leaves around it.

Secrets are never arguments, which other users of the machine would see and shells would remember.
"""

import sys
import unicodedata

import typer

from deploy.cli.errors import CommandError


def read_secret(*, from_stdin: bool) -> bytes:
    """Return the secret that the provider showed, from standard input or a hidden prompt."""
    if from_stdin:
        return clean_secret(sys.stdin.buffer.read())
    if not sys.stdin.isatty():
        raise CommandError("there is no terminal to ask for the secret on: pipe it in and add --secret-stdin")
    return clean_secret(str(typer.prompt("Secret (not shown)", hide_input=True)).encode())


def clean_secret(given: bytes) -> bytes:
    """Return a secret without the white space and the invisible characters around it.

    A byte-order mark, a no-break space and a zero-width space are such characters. Bytes that are no text are returned
    as they are.

    Raises:
        CommandError: it is empty, it is UTF-16, or such a character stands inside it.
    """
    if given.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise CommandError("the secret is text in UTF-16: save the file as UTF-8, or pipe the secret in without a file")
    try:
        text = given.decode()
    except UnicodeDecodeError:
        return given
    secret = text.strip("".join(filter(_is_invisible, text)))
    if not secret:
        raise CommandError("the secret is empty: give it as the provider showed it")
    for at, character in enumerate(secret, 1):
        if character != " " and _is_invisible(character):
            name = unicodedata.name(character, "a control character")
            raise CommandError(
                f"character {at} of the secret is U+{ord(character):04X} ({name}), which nobody sees: "
                "copy the secret again without it"
            )
    return secret.encode()


def _is_invisible(character: str) -> bool:
    """Return whether a character is white space, a control or a format character."""
    return character.isspace() or unicodedata.category(character) in {"Cc", "Cf"}
