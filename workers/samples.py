"""Bodies and headers as providers send them, for `pipeline send` and the tests of a team's handlers.

Guarantees: a fresh session or id each time, so that no two are the same event. An event type that is not known gets a
body with the common fields, as a new type of the provider would have.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from time import time
from typing import Any, Final
from uuid import uuid4

COMPLETED: Final = "verification.completed"
FAILED: Final = "verification.failed"


def moveris(event: str = COMPLETED, *, model: str = "mixed-30-v2") -> tuple[bytes, dict[str, str]]:
    """Return a body and the unsigned headers that come with it."""
    session_id = str(uuid4())
    now = _now()
    body = json.dumps(
        {"event": event, "session_id": session_id, "timestamp": now, "data": _data(event, session_id, now, model)}
    )
    return body.encode(), {"X-Webhook-Event": event, "X-Webhook-Session": session_id}


def _data(event: str, session_id: str, now: str, model: str) -> dict[str, Any]:
    if event == FAILED:
        return {"session_id": session_id, "model": model, "error": "the video could not be processed"}
    if event != COMPLETED:
        return {}
    return {
        "verdict": "live",
        "confidence": 0.94,
        "real_score": 0.94,
        "score": 94.0,
        "type": "VERY HIGH",
        "session_id": session_id,
        "model": model,
        "input_source": "rest_frames",
        "processing_ms": 845,
        "frames_processed": 30,
        "tenant_metadata": None,
        "warning": None,
        "created_at": now,
    }


def sample(kind: str, event: str | None = None) -> tuple[bytes, dict[str, str]]:
    """Return a body and the unsigned headers of one provider's fresh event.

    Args:
        kind: name of a provider, or of a scheme; any that is not known gets a body of Standard Webhooks' form.
        event: its type; by default a common one of the provider.
    """
    make = _SAMPLES.get(kind, _other)
    body, headers = make() if event is None else make(event)
    return body, headers


def _github(event: str = "push") -> tuple[bytes, dict[str, str]]:
    name, _, action = event.partition(".")
    repository = {"id": 1296269, "full_name": "octocat/Hello-World"}
    tree: dict[str, Any] = {"repository": repository, "sender": {"login": "octocat"}, "after": uuid4().hex}
    headers = {"X-GitHub-Event": name, "X-GitHub-Delivery": str(uuid4()), "X-GitHub-Hook-ID": "1"}
    return _json(tree | ({"action": action} if action else {})), headers


def _meta(event: str = "whatsapp_business_account") -> tuple[bytes, dict[str, str]]:
    entry = {"id": "102290129340398", "time": int(time()), "changes": [{"field": "messages", "value": uuid4().hex}]}
    return _json({"object": event, "entry": [entry]}), {}


def _shopify(event: str = "orders/create") -> tuple[bytes, dict[str, str]]:
    order = {"id": uuid4().int >> 80, "created_at": _now(), "updated_at": _now(), "total_price": "199.00"}
    return _json(order), {
        "X-Shopify-Topic": event,
        "X-Shopify-Shop-Domain": "example.myshopify.com",
        "X-Shopify-Webhook-Id": str(uuid4()),
        "X-Shopify-Event-Id": str(uuid4()),
        "X-Shopify-Triggered-At": _now(),
    }


def _slack(event: str = "app_mention") -> tuple[bytes, dict[str, str]]:
    return _json(
        {
            "type": "event_callback",
            "team_id": "T123ABC456",
            "api_app_id": "A123ABC456",
            "event": {"type": event, "user": "U123ABC456", "channel": "C123ABC456", "text": "hello"},
            "event_id": f"Ev{uuid4().hex}",
            "event_time": int(time()),
        }
    ), {}


def _stripe(event: str = "customer.created") -> tuple[bytes, dict[str, str]]:
    return _json(
        {
            "id": f"evt_{uuid4().hex}",
            "object": "event",
            "api_version": "2024-06-20",
            "created": int(time()),
            "data": {"object": {"id": f"cus_{uuid4().hex[:14]}", "object": "customer"}},
            "livemode": False,
            "pending_webhooks": 1,
            "type": event,
        }
    ), {}


def _other(event: str = "sample.sent") -> tuple[bytes, dict[str, str]]:
    return _json({"type": event, "timestamp": _now(), "data": {"id": str(uuid4())}}), {}


def _json(tree: dict[str, Any]) -> bytes:
    return json.dumps(tree, separators=(",", ":")).encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


_SAMPLES: Final = {
    "github": _github,
    "meta": _meta,
    "moveris": moveris,
    "shopify": _shopify,
    "slack": _slack,
    "stripe": _stripe,
}
