"""Meta (WhatsApp, Messenger, Instagram): the type is `object`, such as `whatsapp_business_account`.

One request carries a list of entries, so an event is the whole request. Meta signs neither id nor time: the identity is
the SHA-256 of the body.

Handlers get `event.json()` and the exact bytes. `Rejected` refuses what `strict_json` refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workers.events.model import GenericEvent, Parsed, body_fingerprint, name_or_none
from workers.events.strict_json import read_object

if TYPE_CHECKING:
    from workers.events.model import Headers

PROVIDER: Final = "meta"
UNKNOWN: Final = "unknown"


def parse(provider: str, body: bytes, headers: Headers) -> Parsed:
    """Read one body.

    Raises:
        Rejected: see above.
    """
    del headers
    tree = read_object(body)
    kind = name_or_none(tree.get("object")) or UNKNOWN
    entries = tree.get("entry")
    first = entries[0] if isinstance(entries, list) and entries else None
    subject = name_or_none(first.get("id")) if isinstance(first, dict) else None
    event = GenericEvent(provider=provider, type=kind, subject=subject, occurred_at=None, body=body)
    return Parsed(type=kind, subject=subject, occurred_at=None, fingerprint=body_fingerprint(body), event=event)
