"""How an endpoint's provider signs: a preset, or a description from a file.

Nothing reaches the registry that the ingress could not follow.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from deploy.cli.errors import CommandError
from ingress.schemes import DECLARED, PRESETS, Scheme, compose, find
from ingress.schemes.declared import Declared
from ingress.schemes.scheme import BadSchemeError, WrongSecretError

SchemeField = str | Mapping[str, Any]

UNSIGNED: Final = "none"


def choose_scheme(provider: str, scheme: str | None, scheme_file: Path | None, *, is_unsigned: bool) -> SchemeField:
    """Return what the registry holds of the scheme that was asked for: a name or a description."""
    if scheme_file is not None:
        if scheme is not None:
            raise CommandError("--scheme and --scheme-file say two different things: give one of them")
        return _read_file(scheme_file)
    name = provider if scheme is None else scheme
    if name not in PRESETS:
        asked = f"{provider} has no scheme of its own, choose one with --scheme or describe one with --scheme-file"
        asked = asked if scheme is None else "choose another"
        raise CommandError(f"no signature scheme {name!r}: {asked} ({', '.join(sorted(PRESETS))})")
    if name == UNSIGNED and not is_unsigned:
        raise CommandError(
            "an endpoint that nobody signs for is open to whoever learns its path: "
            "add --i-know-this-is-unsigned if the provider cannot sign"
        )
    if is_unsigned and name != UNSIGNED:
        raise CommandError(f"--i-know-this-is-unsigned is for --scheme none; {name} is signed")
    return name


def _read_file(file: Path) -> Mapping[str, Any]:
    try:
        description = tomllib.loads(file.read_text(encoding="utf-8-sig"))
        compose(description)
    except UnicodeDecodeError:
        raise CommandError(f"{file} is not TOML: it is not UTF-8; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise CommandError(f"{file} is not TOML: {error}") from None
    except BadSchemeError as error:
        raise CommandError(f"{file}: {error}") from None
    return description


def find_scheme(scheme: SchemeField) -> Scheme:
    """Return the scheme of an endpoint in the registry."""
    try:
        return find(scheme)
    except BadSchemeError as error:
        raise CommandError(
            f"the scheme cannot be used: {error}; this version of the command is older than the endpoint"
        ) from None


def check_secret(scheme: Scheme, label: str, secret: bytes) -> None:
    """Refuse a secret that the scheme cannot use."""
    try:
        scheme.read_key(label=label, text=secret)
    except WrongSecretError as error:
        raise CommandError(f"the secret {label!r} does not fit: {error}") from None


def scheme_name(scheme: SchemeField) -> str:
    """Return how lists show a scheme."""
    if isinstance(scheme, str):
        return scheme
    known = find_scheme(scheme)
    if not isinstance(known, Declared):
        return "described"
    start = f"{scheme['preset']} with " if scheme.get("preset") in DECLARED else ""
    return f"{start}{known.description.algorithm} in {known.description.header[0]}"
