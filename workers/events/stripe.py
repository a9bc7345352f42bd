"""Stripe: snapshot events (`object: event`) and thin ones (`object: v2.core.event`).

Everything that matters is in the signed body: the identity is `id` (evt_...), so that a retry, or the same event sent
again after days, is a duplicate. Two events about one change are two events, as Stripe says; compare `subject` if that
matters.

Handlers get `event.json()` and the exact bytes. `Rejected` refuses a body without an id or a type, and what
`strict_json` refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from workers.events.model import (
    MAX_NAME,
    GenericEvent,
    Parsed,
    Rejected,
    identity_fingerprint,
    instant_or_none,
    name_or_none,
    second_or_none,
)
from workers.events.strict_json import read_object

if TYPE_CHECKING:
    from workers.events.model import Headers

PROVIDER: Final = "stripe"


def parse(provider: str, body: bytes, headers: Headers) -> Parsed:
    """Read one body.

    Raises:
        Rejected: see above.
    """
    del headers
    tree = read_object(body)
    names = {key: name_or_none(tree.get(key)) for key in ("id", "type")}
    for key, name in names.items():
        if name is None:
            raise Rejected("schema_mismatch", f"{key}: a text of 1 to {MAX_NAME} characters is expected")
    event_id, kind = str(names["id"]), str(names["type"])
    created = tree.get("created")
    event = GenericEvent(
        provider=provider,
        type=kind,
        subject=_subject(tree),
        occurred_at=second_or_none(created) or instant_or_none(created),
        body=body,
    )
    return Parsed(
        type=kind,
        subject=event.subject,
        occurred_at=event.occurred_at,
        fingerprint=identity_fingerprint(PROVIDER, event_id),
        event=event,
        signed_at=event.occurred_at,
    )


def _subject(tree: dict[str, Any]) -> str | None:
    """Return the id of the object that changed."""
    data = tree.get("data")
    for it in (data.get("object") if isinstance(data, dict) else None, tree.get("related_object")):
        if isinstance(it, dict) and (name := name_or_none(it.get("id"))):
            return name
    return None
