"""What an alert says: as JSON for a webhook, and as text for people. Pure functions.

The JSON is `{"type", "timestamp", "data"}` as Standard Webhooks recommends. `type` is incident.opened,
incident.resolved, incident.reminder, incident.digest or incident.test; `data` has `incidents`, of a digest several.
A channel of some tenants is told their figures and the cause, not an error as it came: that may be another tenant's.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_DIGEST_SHOWN: Final = 20
_WHAT: Final = {"failure": "deliveries of {} fail", "rejected": "events of {} are rejected", "refused": "{} is refused"}
_COUNTED: Final = {"failure": "dead", "rejected": "rejected", "refused": "refused"}


def compose(
    notices: Sequence[Mapping[str, Any]],
    is_digest: bool,  # noqa: FBT001 - `alerts.make_messages` calls it
    *,
    for_tenants: bool,
    now: datetime,
) -> list[dict[str, Any]]:
    """Return the content of each notice, or of all in one."""
    if not is_digest:
        return [_content(f"incident.{_kind(it)}", [_incident(it, for_tenants=for_tenants)], now=now) for it in notices]
    latest = {it["id"]: it for it in notices}
    return [_content("incident.digest", [_incident(it, for_tenants=for_tenants) for it in latest.values()], now=now)]


def test_content(*, now: datetime) -> dict[str, Any]:
    """Return the content of a message that says only that messages arrive."""
    return _content("incident.test", [], now=now)


def _kind(notice: Mapping[str, Any]) -> str:
    return "opened" if notice["notice_kind"] == "joined" else str(notice["notice_kind"])


def _content(kind: str, incidents: list[dict[str, Any]], *, now: datetime) -> dict[str, Any]:
    return {"type": kind, "timestamp": now.astimezone(UTC).isoformat(), "data": {"incidents": incidents}}


def _incident(notice: Mapping[str, Any], *, for_tenants: bool) -> dict[str, Any]:
    told = {name: notice[name] for name in ("id", "kind", "subject", "cause", "state", "tenants", "tenant_count")}
    told |= {name: notice[name].isoformat() for name in ("first_seen", "last_seen")}
    if for_tenants:
        return told | {"count": notice["tenants_count"] or 0}
    return told | {"count": notice["count"], "waiting": notice["waiting"], "example": notice["example"]}


def headline(content: Mapping[str, Any]) -> str:
    """Return one line, such as "Incident 7 opened: deliveries of acme.grant fail: KeyError: <value>"."""
    incidents = content["data"]["incidents"]
    match content["type"]:
        case "incident.test":
            return "Test: alerts of the webhook pipeline arrive here"
        case "incident.digest":
            still = sum(it["state"] == "open" for it in incidents)
            return f"{len(incidents)} incidents, {still} of them open"
        case kind:
            (it,) = incidents
            word = {"incident.reminder": "is still open"}.get(kind, kind.rpartition(".")[2])
            return f"Incident {it['id']} {word}: {_what(it)}"


def text(content: Mapping[str, Any]) -> str:
    """Return all of it for people, the headline first."""
    incidents = content["data"]["incidents"]
    lines = [headline(content)]
    if content["type"] == "incident.digest":
        lines += [f"- {it['id']} ({it['state']}): {_what(it)}; {_figures(it)}" for it in incidents[:_DIGEST_SHOWN]]
        if len(incidents) > _DIGEST_SHOWN:
            lines.append(f"- and {len(incidents) - _DIGEST_SHOWN} more")
        lines.append("pipeline incidents list")
    for it in incidents if content["type"] != "incident.digest" else ():
        more = it["tenant_count"] - len(it["tenants"])
        lines += [
            _figures(it),
            f"Tenants: {', '.join(it['tenants'])}{f' and {more} more' if more > 0 else ''}",
            f"First seen {_moment(it['first_seen'])}, last seen {_moment(it['last_seen'])}",
        ]
        if it.get("example") and it["example"] != it["cause"]:
            lines.append(f"Such as: {it['example']}")
        lines.append(f"pipeline incidents show {it['id']}")
    return "\n".join(lines)


def _what(it: Mapping[str, Any]) -> str:
    return f"{_WHAT[it['kind']].format(it['subject'])}: {it['cause']}"


def _figures(it: Mapping[str, Any]) -> str:
    waiting = f", {it['waiting']} wait for another attempt" if it.get("waiting") else ""
    tenants = "1 tenant" if it["tenant_count"] == 1 else f"{it['tenant_count']} tenants"
    return f"{it['count']} {_COUNTED[it['kind']]} of {tenants}{waiting}"


def _moment(text: str) -> str:
    return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
