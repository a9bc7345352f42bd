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
