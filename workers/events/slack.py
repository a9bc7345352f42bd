"""Slack's Events API: the type is that of the inner event, such as `app_mention`.

The identity is `event_id`, which Slack calls globally unique and repeats in its retries; it is in the signed body. What
has none (`app_rate_limited`) is identified by its bytes. Slash commands and interactions are forms and want an answer
at once: they are not events, and rejected.

Handlers get `event.json()` and the exact bytes. `Rejected` refuses a body without a type, and what `strict_json`
refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from workers.events.model import (
    MAX_NAME,
    GenericEvent,
    Parsed,
    Rejected,
    body_fingerprint,
    identity_fingerprint,
    name_or_none,
    second_or_none,
)
from workers.events.strict_json import read_object

if TYPE_CHECKING:
    from workers.events.model import Headers

PROVIDER: Final = "slack"
_SUBJECTS: Final = ("channel", "channel_id", "user", "user_id")


def parse(provider: str, body: bytes, headers: Headers) -> Parsed:
    """Read one body.

    Raises:
        Rejected: see above.
    """
    del headers
    tree = read_object(body)
    inner = tree.get("event")
    inner = inner if isinstance(inner, dict) else {}
    kind = name_or_none(inner.get("type")) or name_or_none(tree.get("type"))
    if kind is None:
        raise Rejected("schema_mismatch", f"event.type: a text of 1 to {MAX_NAME} characters is expected")
    event_id = name_or_none(tree.get("event_id"))
    event = GenericEvent(
        provider=provider,
        type=kind,
        subject=_subject(inner) or name_or_none(tree.get("team_id")),
        occurred_at=second_or_none(tree.get("event_time")),
        body=body,
    )
    return Parsed(
        type=kind,
        subject=event.subject,
        occurred_at=event.occurred_at,
        fingerprint=body_fingerprint(body) if event_id is None else identity_fingerprint(PROVIDER, event_id),
        event=event,
        signed_at=event.occurred_at,
    )


def _subject(inner: dict[str, Any]) -> str | None:
    """Return the channel, else the user; some events hold the object instead of its id."""
    for key in _SUBJECTS:
        it = inner.get(key)
        if name := name_or_none(it.get("id") if isinstance(it, dict) else it):
            return name
    return None
