"""Shopify: the type is the topic, such as `orders/create`; the newer "Events" name it in the body.

Shopify signs the body alone; topic, shop and ids are headers. The bytes alone are no identity here: `orders/create` and
`orders/paid` of one order may have the same ones, and two shops of one app may too. So an event is the same one if
topic, shop and bytes are. `X-Shopify-Webhook-Id` and `X-Shopify-Event-Id` are no part of it: who holds a copy of a
signed body could make a new event of it with every new id. With another topic he still could, once for each topic that
a handler asks for: look into the body where that matters.

Guarantees: handlers get `event.json()` and the exact bytes. Refuses (`Rejected`) what `strict_json` refuses.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from workers.events.model import (
    GenericEvent,
    Parsed,
    header_or_none,
    identity_fingerprint,
    instant_or_none,
    name_or_none,
)
from workers.events.strict_json import read_object

if TYPE_CHECKING:
    from workers.events.model import Headers

PROVIDER: Final = "shopify"
UNKNOWN: Final = "unknown"
_TOPIC: Final = re.compile(r"[A-Za-z0-9_./-]{1,100}")
_SHOP: Final = re.compile(r"[A-Za-z0-9.-]{1,200}")


def parse(provider: str, body: bytes, headers: Headers) -> Parsed:
    """Read one body.

    Raises:
        Rejected: see above.
    """
    tree = read_object(body)
    shop = _header(headers, b"shopify-shop-domain")
    shop = shop if shop and _SHOP.fullmatch(shop) else ""
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
        fingerprint=identity_fingerprint(PROVIDER, kind, shop, sha256(body).hexdigest()),
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
