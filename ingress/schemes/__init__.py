"""Signature schemes: how a provider proves that a body is its own. One file each, `sign` beside `verify`.

Guarantees: `verify` depends on its arguments alone, the clock included, compares in constant time, has a verdict for
any bytes whatever and raises nothing. Refuses: a scheme that this version does not know (`UnknownSchemeError`).

An endpoint names a preset, or carries a description of its own: the keys of `description.Description`, and `preset` to
start from one of ours and change some of it.

Schemes know neither Starlette nor Redis: the command line signs with them too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

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

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ingress.schemes.verdict import Scheme

PRESETS: Final[Mapping[str, Scheme]] = {
    "github": github.SCHEME,
    "hmac": generic.SCHEME,
    "meta": meta.SCHEME,
    "moveris": moveris,
    "none": unsigned,
    "shopify": shopify.SCHEME,
    "slack": slack.SCHEME,
    "standard-webhooks": standard_webhooks.SCHEME,
    "stripe": stripe.SCHEME,
}
"""The schemes that an endpoint may name."""

DESCRIPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "github": github.DESCRIPTION,
    "hmac": generic.DESCRIPTION,
    "meta": meta.DESCRIPTION,
    "moveris": moveris.DESCRIPTION,
    "shopify": shopify.DESCRIPTION,
    "slack": slack.DESCRIPTION,
    "standard-webhooks": standard_webhooks.DESCRIPTION,
    "stripe": stripe.DESCRIPTION,
}
"""The presets that a description may start from."""


class UnknownSchemeError(ValueError):
    """No scheme of this name, or a description that this version cannot follow; the text says which."""


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
    """Return the scheme of a description.

    Raises:
        BadSchemeError: names the key at fault.
    """
    given = dict(description)
    start = given.pop("preset", None)
    if start is None:
        return declare(given)
    if not isinstance(start, str) or start not in DESCRIPTIONS:
        raise BadSchemeError(f"preset: {start!r} is none of {', '.join(sorted(DESCRIPTIONS))}")
    inherited = {name: value for name, value in DESCRIPTIONS[start].items() if name not in given}
    if given.get("key", "whsec") != "whsec":
        inherited.pop("ed25519_prefix", None)  # only secrets of that form can be for Ed25519
    try:
        return declare({**inherited, **given})
    except BadSchemeError as error:
        shown = ", ".join(f"{name} = {value!r}" for name, value in inherited.items())
        raise BadSchemeError(f"{error} (the preset {start} adds {shown}; an empty value takes one away)") from None
