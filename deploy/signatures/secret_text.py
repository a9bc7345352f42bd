"""A secret without what copying and pasting leaves around it."""

import unicodedata


class SecretTextError(ValueError):
    """What was given cannot be a secret; the text is one line that says why and what to do."""


def clean_secret(given: bytes) -> bytes:
    """Return a secret without the white space and the invisible characters around it.

    A byte-order mark, a no-break space and a zero-width space are such characters. Bytes that are no text are returned
    as they are.

    Raises:
        SecretTextError: it is empty, it is UTF-16, or such a character stands inside it.
    """
    if given.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SecretTextError(
            "the secret is text in UTF-16: save the file as UTF-8, or pipe the secret in without a file"
        )
    try:
        text = given.decode()
    except UnicodeDecodeError:
        return given
    secret = text.strip("".join(filter(_is_invisible, text)))
    if not secret:
        raise SecretTextError("the secret is empty: give it as the provider showed it")
    for at, character in enumerate(secret, 1):
        if character != " " and _is_invisible(character):
            name = unicodedata.name(character, "a control character")
            raise SecretTextError(
                f"character {at} of the secret is U+{ord(character):04X} ({name}), which nobody sees: "
                "copy the secret again without it"
            )
    return secret.encode()


def _is_invisible(character: str) -> bool:
    """Return whether a character is white space, a control or a format character."""
    return character.isspace() or unicodedata.category(character) in {"Cc", "Cf"}
