"""Shopify: the type is the topic, such as `orders/create`; the newer "Events" name it in the body.

Shopify signs the body alone; topic, shop and ids are headers, which whoever holds one signed body may set as he likes.
So the identity is the SHA-256 of the body, and the type that counts is the first one. Two topics may have the same
bytes, `orders/create` and `orders/paid` of one order: where both are wanted, give each topic an endpoint of its own
(`pipeline endpoints add acme --provider shopify-paid --scheme shopify`), since events of two endpoints are never the
same one. The dates in the body are those of the order or product, not of the event.

Handlers get `event.json()` and the exact bytes. `Rejected` refuses what `strict_json` refuses.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from workers.events.model import (
    GenericEvent,
    Parsed,
    body_fingerprint,
    header_or_none,
    instant_or_none,
    name_or_none,
)
from workers.events.strict_json import read_object

if TYPE_CHECKING:
    from workers.events.model import Headers

PROVIDER: Final = "shopify"
UNKNOWN: Final = "unknown"
_TOPIC: Final = re.compile(r"[A-Za-z0-9_./-]{1,100}")


def parse(provider: str, body: bytes, headers: Headers) -> Parsed:
    """Read one body.

    Raises:
        Rejected: see above.
    """
    tree = read_object(body)
    kind = _topic(tree, _header(headers, b"shopify-topic"))
    event = GenericEvent(
        provider=provider,
        type=kind,
        subject=_subject(tree),
        occurred_at=instant_or_none(tree.get("updated_at")) or instant_or_none(tree.get("created_at")),
        body=body,
    )
    return Parsed(
        type=kind,
        subject=event.subject,
        occurred_at=event.occurred_at,
        fingerprint=body_fingerprint(body),
        event=event,
    )


def _header(headers: Headers, name: bytes) -> str | None:
    """Return a header in its old spelling, with X-, or in the new one."""
    return header_or_none(headers, b"x-" + name) or header_or_none(headers, name)


def _topic(tree: dict[str, Any], header: str | None) -> str:
    """Return the topic: signed if the body has it with an action, as "Events" do, else what the header says."""
    topic, action = name_or_none(tree.get("topic")), name_or_none(tree.get("action"))
    said = f"{topic}/{action}".lower() if topic and action else header
    return said if said and _TOPIC.fullmatch(said) else UNKNOWN


def _subject(tree: dict[str, Any]) -> str | None:
    """Return the global id of the resource, else its number."""
    number = tree.get("id")
    return name_or_none(tree.get("admin_graphql_api_id")) or (str(number) if isinstance(number, int) else None)
