"""Events of providers without a file of their own: any JSON object, typed by what it says of itself.

Guarantees: the exact bytes reach the handler. Refuses (`Rejected`) what `strict_json` refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workers.events.model import GenericEvent, Parsed, body_fingerprint, name_or_none
from workers.events.strict_json import read_object

if TYPE_CHECKING:
    from workers.events.model import Headers

UNKNOWN: Final = "unknown"
_TYPE_KEYS: Final = ("type", "event", "event_type")


def parse(provider: str, body: bytes, headers: Headers) -> Parsed:
    """Read a body of any provider.

    Its type is the first text among the top-level `type`, `event` and `event_type`; headers are not signed, so they
    give none.

    Raises:
        Rejected: the body is no JSON object, or an ambiguous one.
    """
    del headers
    tree = read_object(body)
    kind = next((name for key in _TYPE_KEYS if (name := name_or_none(tree.get(key)))), UNKNOWN)
    event = GenericEvent(provider=provider, type=kind, subject=None, occurred_at=None, body=body)
    return Parsed(type=kind, subject=None, occurred_at=None, fingerprint=body_fingerprint(body), event=event)
