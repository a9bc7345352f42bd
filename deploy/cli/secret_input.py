"""A secret as a person gives it, read without showing it.

Secrets are never arguments, which other users of the machine would see and shells would remember.
"""

import sys

import typer

from deploy.cli.errors import CommandError
from deploy.signatures.secret_text import clean_secret


def read_secret(*, from_stdin: bool) -> bytes:
    """Return the secret that the provider showed, from standard input or a hidden prompt."""
    if from_stdin:
        return clean_secret(sys.stdin.buffer.read())
    if not sys.stdin.isatty():
        raise CommandError("there is no terminal to ask for the secret on: pipe it in and add --secret-stdin")
    return clean_secret(str(typer.prompt("Secret (not shown)", hide_input=True)).encode())


def read_password(*, from_stdin: bool) -> str:
    """Return a new password, from standard input or from a hidden prompt that asks for it twice."""
    if not from_stdin:
        if not sys.stdin.isatty():
            raise CommandError("there is no terminal to ask for the password on: pipe it in and add --password-stdin")
        return str(typer.prompt("Password (not shown)", hide_input=True, confirmation_prompt="Again (not shown)"))
    try:
        password = sys.stdin.buffer.read().decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise CommandError(
            "the password is no text in UTF-8: pipe it in without a file, or save that as UTF-8"
        ) from None
    if "\n" in password:
        raise CommandError("more than one line came on standard input: pipe in the password alone")
    return password
