"""What goes into the registry for an endpoint: how its provider signs, its secret, and what to tell the provider.

Guarantees: nothing reaches the registry that the ingress could not follow; a secret is shown only if it was made here.
Refuses (`CommandError`): an unknown scheme, a scheme file that is wrong (the line names the key), a secret of the wrong
form, an unsigned endpoint that nobody asked for by name.
"""

from __future__ import annotations

import secrets
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from deploy.cli.arguments import read_secret
from deploy.cli.errors import CommandError
from ingress.schemes import DECLARED, PRESETS, compose, find
from ingress.schemes.declared import Declared
from ingress.schemes.handshakes import verify_token
from ingress.schemes.scheme import BadSchemeError, Handshake, WrongSecretError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ingress.schemes import Scheme

UNSIGNED: Final = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A secret of an endpoint, and what its provider has to be told.

    Attributes:
        secret: to be encrypted and stored.
        path: to register with the provider.
        told: for `--json`: the path, and a verify token if the provider asks for one.
        lines: the same for people.
    """

    secret: bytes
    path: str
    told: Mapping[str, str]
    lines: tuple[str, ...]


def choose_scheme(
    provider: str, *, scheme: str | None, scheme_file: Path | None, is_unsigned: bool
) -> str | Mapping[str, Any]:
    """Return the name or the description of a scheme that the ingress can follow."""
    if scheme_file is not None:
        if scheme is not None:
            raise CommandError("--scheme and --scheme-file say two different things: give one of them")
        return _read_file(scheme_file)
    name = provider if scheme is None else scheme
    if name not in PRESETS:
        asked = f"{provider} has no scheme of its own, choose one with --scheme or describe one with --scheme-file"
        asked = asked if scheme is None else "choose another"
        raise CommandError(f"no signature scheme {name!r}: {asked} ({', '.join(sorted(PRESETS))})")
    if (name == UNSIGNED) != is_unsigned:
        raise CommandError(
            "an endpoint that nobody signs for is open to whoever learns its path: "
            "add --i-know-this-is-unsigned if the provider cannot sign"
            if name == UNSIGNED
            else f"--i-know-this-is-unsigned is for --scheme none; {name} is signed"
        )
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


def take_secret(path: str, scheme: str | Mapping[str, Any], *, label: str, from_stdin: bool) -> Registration:
    """Read the secret that the provider showed, or make the token of an unsigned endpoint's path.

    Args:
        path: of the endpoint, without a token.
        scheme: its name or description, as the registry has it.
        label: of the secret.
        from_stdin: read standard input instead of asking.
    """
    known = scheme_of(scheme)
    makes_token = scheme == UNSIGNED and not from_stdin
    secret = secrets.token_urlsafe(32).encode() if makes_token else read_secret(from_stdin=from_stdin)
    check_secret(scheme, label, secret)
    told, lines = {"path": path}, []
    if scheme == UNSIGNED:
        told["path"] = f"{path}/{secret.decode()}"
        lines.append("nothing is signed: whoever knows this path may post; it is not shown again")
    if known.handshake is Handshake.HUB_CHALLENGE:
        told["verify_token"] = verify_token(secret)
        lines.append(f"verify token to enter beside the URL: {told['verify_token']}")
    if known.handshake is Handshake.URL_VERIFICATION:
        lines.append("the provider asks a question when the URL is entered; the ingress answers it")
    if isinstance(known, Declared) and known.description.algorithm == "hmac-sha1":
        lines.append("SHA-1 is weak: take it only for a sender that has nothing better")
    return Registration(secret=secret, path=told["path"], told=told, lines=tuple(lines))


def check_secret(scheme: str | Mapping[str, Any], label: str, secret: bytes) -> None:
    """Refuse a secret that the scheme cannot use."""
    try:
        scheme_of(scheme).read_key(label=label, text=secret)
    except WrongSecretError as error:
        raise CommandError(f"the secret {label!r} does not fit: {error}") from None


def scheme_of(scheme: str | Mapping[str, Any]) -> Scheme:
    """Return the scheme that an endpoint of the registry has."""
    try:
        return find(scheme)
    except BadSchemeError as error:
        raise CommandError(
            f"the scheme cannot be used: {error}; this version of the command is older than the endpoint"
        ) from None


def name_of(scheme: str | Mapping[str, Any]) -> str:
    """Return how lists show a scheme."""
    if isinstance(scheme, str):
        return scheme
    known = scheme_of(scheme)
    if not isinstance(known, Declared):
        return "described"
    start = f"{scheme['preset']} with " if scheme.get("preset") in DECLARED else ""
    return f"{start}{known.description.algorithm} in {known.description.header[0]}"
