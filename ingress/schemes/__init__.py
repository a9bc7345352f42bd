"""Signature schemes: how a provider proves that a body is its own. One file each, `sign` beside `verify`.

Guarantees: `verify` depends on its arguments alone, the clock included, compares in constant time, has a verdict for
any bytes whatever and raises nothing. Refuses: a scheme that this version does not know (`UnknownSchemeError`).

Schemes know neither Starlette nor Redis: the command line signs with them too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ingress.schemes import moveris

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ingress.schemes.verdict import Scheme

PRESETS: Final[Mapping[str, Scheme]] = {"moveris": moveris}
"""The schemes that an endpoint may name."""


class UnknownSchemeError(ValueError):
    """No scheme of this name, or a description that this version cannot follow; the text says which."""


def find(scheme: str | Mapping[str, Any]) -> Scheme:
    """Return the scheme that an endpoint names.

    Raises:
        UnknownSchemeError: there is none.
    """
    preset = PRESETS.get(scheme) if isinstance(scheme, str) else None
    if preset is None:
        raise UnknownSchemeError(f"no signature scheme {scheme!r}; there are: {', '.join(sorted(PRESETS))}")
    return preset
