"""Signature schemes: how a provider proves that a request is its own.

- `presets/`: a file per provider, in the form of a team's own scheme file.
- `declared`: checks such a description, verifies and signs by it. `content` is its template of the signed bytes,
  `encodings` and `keys` are the forms of signatures and secrets.
- `unsigned`: the preset `none`, for providers that sign nothing.
- `handshakes`: what some providers ask before they send events.

`verify` depends on its arguments alone, the clock included, compares in constant time and raises nothing, whatever the
bytes are. Schemes know neither Starlette nor Redis: the command line signs with them too.
"""

import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any, Final, TypeAlias

from ingress.schemes import unsigned
from ingress.schemes.declared import Declared, declare
from ingress.schemes.scheme import BadSchemeError
from ingress.schemes.unsigned import Unsigned

Scheme: TypeAlias = Declared | Unsigned

DECLARED: Final[Mapping[str, Declared]] = {
    file.name.removesuffix(".toml"): declare(tomllib.loads(file.read_text("utf-8")))
    for file in sorted(resources.files(__package__).joinpath("presets").iterdir(), key=lambda file: file.name)
}
"""The presets that a description may start from."""
PRESETS: Final[Mapping[str, Scheme]] = {**DECLARED, "none": unsigned.SCHEME}
"""The schemes that an endpoint may name."""


def find(scheme: str | Mapping[str, Any]) -> Scheme:
    """Return the scheme that an endpoint names or describes.

    Raises:
        BadSchemeError: there is none of that name, or the description cannot be followed.
    """
    if not isinstance(scheme, str):
        return compose(scheme)
    if scheme not in PRESETS:
        raise BadSchemeError(f"no signature scheme {scheme!r}; there are: {', '.join(sorted(PRESETS))}")
    return PRESETS[scheme]


def compose(description: Mapping[str, Any]) -> Declared:
    """Return the scheme of a description: the keys of `Description`, and `preset` to start from one of ours.

    Raises:
        BadSchemeError: the text names the key at fault.
    """
    given = dict(description)
    start = given.pop("preset", None)
    if start is None:
        return declare(given)
    if not isinstance(start, str) or start not in DECLARED:
        raise BadSchemeError(f"preset: {start!r} is none of {', '.join(sorted(DECLARED))}")
    inherited = {name: value for name, value in DECLARED[start].given.items() if name not in given}
    if given.get("key", "whsec") != "whsec":
        inherited.pop("ed25519_prefix", None)  # only secrets of that form can be for Ed25519
    try:
        return declare(inherited | given)
    except BadSchemeError as error:
        shown = ", ".join(f"{name} = {value!r}" for name, value in inherited.items())
        raise BadSchemeError(f"{error} (the preset {start} adds {shown}; an empty value takes one away)") from None
