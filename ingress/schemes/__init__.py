"""Signature schemes: how a provider proves that a request is its own.

- `scheme`: what schemes take and return.
- A file per preset: `moveris`, `github`, `meta`, `shopify`, `slack`, `standard_webhooks`, `stripe`, `generic` (`hmac`),
  and `unsigned` (`none`).
- `declared`: verifies and signs by a description; all presets but `none` are descriptions, and so is a team's own file.
- `description` checks a description, `content` is its template of the signed bytes, `encodings` and `keys` are the
  forms of signatures and secrets.
- `handshakes`: what some providers ask before they send events.

`verify` depends on its arguments alone, the clock included, compares in constant time and raises nothing, whatever the
bytes are. Schemes know neither Starlette nor Redis: the command line signs with them too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ingress.schemes import (
    generic,
    github,
    meta,
    moveris,
    shopify,
    slack,
    standard_webhooks,
    stripe,
    unsigned,
)
from ingress.schemes.declared import BadSchemeError, Declared, declare
from ingress.schemes.unsigned import Unsigned

if TYPE_CHECKING:
    from collections.abc import Mapping

Scheme: TypeAlias = Declared | Unsigned

DECLARED: Final[Mapping[str, Declared]] = {
    "github": github.SCHEME,
    "hmac": generic.SCHEME,
    "meta": meta.SCHEME,
    "moveris": moveris.SCHEME,
    "shopify": shopify.SCHEME,
    "slack": slack.SCHEME,
    "standard-webhooks": standard_webhooks.SCHEME,
    "stripe": stripe.SCHEME,
}
"""The presets that a description may start from."""

PRESETS: Final[Mapping[str, Scheme]] = {**DECLARED, "none": unsigned.SCHEME}
"""The schemes that an endpoint may name."""


class UnknownSchemeError(ValueError):
    """No scheme has this name, or this version cannot follow the description; the text says which."""


def find(scheme: str | Mapping[str, Any]) -> Scheme:
    """Return the scheme that an endpoint names or describes.

    Raises:
        UnknownSchemeError: there is none of that name, or the description cannot be followed.
    """
    if isinstance(scheme, str):
        preset = PRESETS.get(scheme)
        if preset is None:
            raise UnknownSchemeError(f"no signature scheme {scheme!r}; there are: {', '.join(sorted(PRESETS))}")
        return preset
    try:
        return compose(scheme)
    except BadSchemeError as error:
        raise UnknownSchemeError(f"the scheme cannot be followed: {error}") from None


def compose(description: Mapping[str, Any]) -> Declared:
    """Return the scheme of a description: the keys of `Description`, and `preset` to start from one of ours.

    Raises:
        BadSchemeError: the text names the key at fault.
    """
    given = dict(description)
    start = given.pop("preset", None)
    if start is None:
        return declare(**given)
    if not isinstance(start, str) or start not in DECLARED:
        raise BadSchemeError(f"preset: {start!r} is none of {', '.join(sorted(DECLARED))}")
    inherited = {name: value for name, value in DECLARED[start].given.items() if name not in given}
    if given.get("key", "whsec") != "whsec":
        inherited.pop("ed25519_prefix", None)  # only secrets of that form can be for Ed25519
    try:
        return declare(**inherited, **given)
    except BadSchemeError as error:
        shown = ", ".join(f"{name} = {value!r}" for name, value in inherited.items())
        raise BadSchemeError(f"{error} (the preset {start} adds {shown}; an empty value takes one away)") from None
