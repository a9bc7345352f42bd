"""Events of providers without a file of their own: any JSON object, typed by what it says of itself.

Services of one's own and all that send Standard Webhooks are read here. An event is the same one if the id that its
scheme signs is the same (`webhook-id`, or what a scheme file names), else if its bytes are.

Handlers get `event.json()` and the exact bytes. `Rejected` refuses what `strict_json` refuses. The `timestamp` of such
a body may be anything, so its age is not judged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workers.events.model import GenericEvent, Parsed, fingerprint_of, instant_or_none, name_or_none
from workers.events.strict_json import read_object

if TYPE_CHECKING:
    from workers.events.model import Headers

UNKNOWN: Final = "unknown"
_TYPE_KEYS: Final = ("type", "event", "event_type")


def parse(provider: str, body: bytes, headers: Headers) -> Parsed:
    """Read a body of any provider.

    Its type is the first text among the top-level `type`, `event` and `event_type`, its time the top-level `timestamp`
    if that is ISO 8601 with a zone; headers are not signed, so they give neither.

    Raises:
        Rejected: the body is no JSON object, or an ambiguous one.
    """
    tree = read_object(body)
    kind = next((name for key in _TYPE_KEYS if (name := name_or_none(tree.get(key)))), UNKNOWN)
    event = GenericEvent(
        provider=provider, type=kind, subject=None, occurred_at=instant_or_none(tree.get("timestamp")), body=body
    )
    return Parsed(
        type=kind,
        subject=None,
        occurred_at=event.occurred_at,
        fingerprint=fingerprint_of(provider, body, headers),
        event=event,
    )
