"""What each provider's events are: the same one or not, of which type, about what, from when."""

from __future__ import annotations

import gzip
import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.envelope import KEPT_HEADERS, SIGNED_ID
from workers import events
from workers.events import GenericEvent, Rejected

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workers.events import Headers, Parsed

PROVIDERS: Final = ("github", "meta", "moveris", "shopify", "slack", "stripe", "standard-webhooks", "some-service")
RECORDED: Final = Path(__file__).parents[1] / "contract" / "fixtures" / "github.jsonl.gz"


def parse(provider: str, tree: Mapping[str, Any], **headers: str) -> Parsed:
    """Parse a body; the headers' names are written with _ for -."""
    given_headers = tuple((name.replace("_", "-").encode(), value.encode()) for name, value in headers.items())
    assert {name for name, _ in given_headers} <= KEPT_HEADERS | {SIGNED_ID}
    return events.parse(provider, json.dumps(tree).encode(), given_headers)


@pytest.mark.parametrize("provider", PROVIDERS)
@settings(max_examples=30, deadline=None)
@given(
    body=st.binary(max_size=200)
    | st.dictionaries(
        st.sampled_from(["id", "type", "event", "created", "event_id", "event_time", "topic", "action", "object"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=9)
        | st.dictionaries(st.sampled_from(["id", "type", "object"]), st.text(max_size=3) | st.integers(), max_size=2)
        | st.lists(st.text(max_size=3), max_size=2),
        max_size=5,
    ).map(lambda it: json.dumps(it).encode()),
    headers=st.lists(
        st.tuples(st.sampled_from(sorted(KEPT_HEADERS | {SIGNED_ID})), st.binary(max_size=20)), max_size=4
    ),
)
def test_any_bytes_and_headers_are_an_event_or_rejected(
    provider: str, body: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    with suppress(Rejected):
        parsed = events.parse(provider, body, tuple(headers))
        assert (parsed.type, parsed.subject) == (parsed.event.type, parsed.event.subject)
        assert len(parsed.fingerprint) in {32, 33}


BODIES: Final[Mapping[str, Mapping[str, Any]]] = {
    "github": {"action": "opened", "repository": {"full_name": "a/b"}},
    "meta": {"object": "page", "entry": [{"id": "1"}]},
    "moveris": {"event": "session.expired", "session_id": "s", "timestamp": "2026-03-27T15:26:42Z"},
    "shopify": {"id": 1, "topic": None},
    "slack": {"type": "app_rate_limited", "team_id": "T"},
    "stripe": {"id": "evt_1", "type": "customer.created"},
    "standard-webhooks": {"type": "user.created", "id": "1"},
    "some-service": {"event": "a", "id": "1"},
}


@pytest.mark.parametrize("provider", PROVIDERS)
@settings(max_examples=50, deadline=None)
@given(
    first=st.lists(st.tuples(st.sampled_from(sorted(KEPT_HEADERS - {b"content-type"})), st.binary(max_size=20))),
    second=st.lists(st.tuples(st.sampled_from(sorted(KEPT_HEADERS)), st.binary(max_size=20))),
    signed_id=st.none() | st.binary(min_size=1, max_size=9),
)
def test_nothing_unsigned_is_part_of_an_identity(
    provider: str, first: list[tuple[bytes, bytes]], second: list[tuple[bytes, bytes]], signed_id: bytes | None
) -> None:
    body = json.dumps(BODIES[provider]).encode()
    signed = ((SIGNED_ID, signed_id),) if signed_id else ()
    fingerprints = {events.parse(provider, body, (*it, *signed)).fingerprint for it in (tuple(first), tuple(second))}
    assert len(fingerprints) == 1


class TestGitHub:
    PULL: Final = {
        "action": "opened",
        "repository": {"full_name": "octocat/Hello-World"},
        "pull_request": {"number": 1347},
    }

    def test_the_type_is_the_event_with_its_action(self) -> None:
        parsed = parse("github", self.PULL, x_github_event="pull_request")
        assert (parsed.type, parsed.subject) == ("pull_request.opened", "octocat/Hello-World#1347")
        assert isinstance(parsed.event, GenericEvent)
        assert parsed.event.json()["action"] == "opened"
        assert parse("github", {"zen": "Design for failure.", "hook_id": 1}, x_github_event="ping").type == "ping"

    @pytest.mark.parametrize(
        ("body", "subject"),
        [
            ({"repository": {"full_name": "a/b"}}, "a/b"),
            ({"repository": {"full_name": "a/b"}, "issue": {"number": 2}, "pull_request": {"number": 1}}, "a/b#1"),
            ({"repository": {"full_name": "a/b"}, "discussion": {"number": 3}}, "a/b#3"),
            ({"repository": {"full_name": "a/b"}, "issue": {"number": "2"}}, "a/b"),
            ({"organization": {"login": "a"}}, "a"),
            ({"organization": {"login": "a"}, "repository": {}, "issue": {"number": 2}}, "a"),
            ({"repository": "a/b"}, None),
        ],
    )
    def test_the_subject_is_the_repository_with_the_number_else_the_organization(
        self, body: dict[str, Any], subject: str | None
    ) -> None:
        assert parse("github", body).subject == subject

    @pytest.mark.parametrize(("action", "kind"), [("a" * 60, "push." + "a" * 60), ("a" * 61, "push"), (1, "push")])
    def test_an_action_that_is_no_name_is_left_out(self, action: object, kind: str) -> None:
        assert parse("github", {"action": action}, x_github_event="push").type == kind

    @pytest.mark.parametrize("headers", [{}, {"x_github_event": "a b"}, {"x_github_event": ""}])
    def test_without_a_proper_event_header_the_type_is_unknown(self, headers: dict[str, str]) -> None:
        assert parse("github", self.PULL, **headers).type == "unknown"

    def test_the_identity_is_the_body_whatever_the_unsigned_headers_say(self) -> None:
        first = parse("github", self.PULL, x_github_event="pull_request", x_github_delivery="1")
        again = parse("github", self.PULL, x_github_event="push", x_github_delivery="2")
        assert first.fingerprint == again.fingerprint
        assert first.fingerprint != parse("github", self.PULL | {"action": "closed"}).fingerprint

    def test_a_form_is_rejected_with_what_to_do(self) -> None:
        with pytest.raises(Rejected, match="choose the content type application/json") as caught:
            events.parse("github", b"payload=%7B%7D", ((b"content-type", b"application/x-www-form-urlencoded"),))
        assert caught.value.reason == "form_encoded"

    def test_every_example_of_githubs_own_library_is_an_event_of_its_type(self) -> None:
        with gzip.open(RECORDED, "rt", encoding="utf-8") as lines:
            recorded = [json.loads(line) for line in lines]
        fingerprints = set()
        for one in recorded:
            body = one["body"].encode()
            parsed = events.parse("github", body, ((b"x-github-event", one["event"].encode()),))
            assert parsed.type.split(".")[0] == one["event"]
            assert isinstance(parsed.event, GenericEvent)
            assert parsed.event.body == body
            fingerprints.add(parsed.fingerprint)
        assert len(fingerprints) == len({one["body"] for one in recorded})


class TestStripe:
    SNAPSHOT: Final = {
        "id": "evt_123",
        "object": "event",
        "created": 1533204620,
        "type": "customer.created",
        "data": {"object": {"id": "cus_123"}},
    }
    THIN: Final = {
        "id": "evt_test_65",
        "object": "v2.core.event",
        "type": "v1.billing.meter.error_report_triggered",
        "created": "2024-09-17T06:20:52.246Z",
        "related_object": {"id": "mtr_test_61", "type": "billing.meter"},
    }

    def test_snapshots_and_thin_events_are_understood(self) -> None:
        snapshot, thin = parse("stripe", self.SNAPSHOT), parse("stripe", self.THIN)
        assert (snapshot.type, snapshot.subject) == ("customer.created", "cus_123")
        assert snapshot.occurred_at == datetime(2018, 8, 2, 10, 10, 20, tzinfo=UTC)
        assert (thin.type, thin.subject) == ("v1.billing.meter.error_report_triggered", "mtr_test_61")
        assert thin.occurred_at == datetime(2024, 9, 17, 6, 20, 52, 246000, tzinfo=UTC)

    def test_the_identity_is_the_events_id(self) -> None:
        first = parse("stripe", self.SNAPSHOT | {"pending_webhooks": 1})
        assert first.fingerprint == parse("stripe", self.SNAPSHOT | {"pending_webhooks": 0}).fingerprint
        assert first.fingerprint != parse("stripe", self.SNAPSHOT | {"id": "evt_124"}).fingerprint
        assert len(first.fingerprint) == 33

    @pytest.mark.parametrize("missing", ["id", "type"])
    def test_without_id_or_type_it_is_rejected(self, missing: str) -> None:
        with pytest.raises(Rejected, match=f"schema_mismatch: {missing}: a text"):
            parse("stripe", self.SNAPSHOT | {missing: None})


class TestSlack:
    MENTION: Final = {
        "token": "XXYYZZ",
        "team_id": "T123ABC456",
        "api_app_id": "A123ABC456",
        "event": {"type": "app_mention", "user": "U123ABC456", "channel": "C123ABC456", "text": "hi"},
        "type": "event_callback",
        "event_id": "Ev123ABC456",
        "event_time": 1234567890,
    }

    def test_the_type_is_the_inner_events(self) -> None:
        parsed = parse("slack", self.MENTION)
        assert (parsed.type, parsed.subject) == ("app_mention", "C123ABC456")
        assert parsed.occurred_at == datetime(2009, 2, 13, 23, 31, 30, tzinfo=UTC)

    def test_a_retry_is_the_same_event(self) -> None:
        retry = parse("slack", self.MENTION | {"authed_users": []}, x_slack_retry_num="1")
        assert parse("slack", self.MENTION).fingerprint == retry.fingerprint
        other = parse("slack", self.MENTION | {"event_id": "Ev2"})
        assert other.fingerprint != retry.fingerprint

    def test_what_has_no_inner_event_keeps_its_own_type(self) -> None:
        limited = parse("slack", {"type": "app_rate_limited", "team_id": "T1", "minute_rate_limited": 1518467820})
        assert (limited.type, limited.subject, len(limited.fingerprint)) == ("app_rate_limited", "T1", 32)

    def test_an_inner_event_may_hold_its_channel_whole(self) -> None:
        created = {"type": "channel_created", "channel": {"id": "C9", "name": "fun"}}
        assert parse("slack", self.MENTION | {"event": created}).subject == "C9"

    @pytest.mark.parametrize(
        ("inner", "subject"),
        [
            ({"channel": "C1", "channel_id": "C2", "user": "U1", "user_id": "U2"}, "C1"),
            ({"channel_id": "C2", "user": "U1", "user_id": "U2"}, "C2"),
            ({"channel": {}, "user": {"id": "U1"}, "user_id": "U2"}, "U1"),
            ({"user_id": "U2"}, "U2"),
            ({}, "T123ABC456"),
        ],
    )
    def test_the_subject_is_the_channel_else_the_user_else_the_team(self, inner: dict[str, Any], subject: str) -> None:
        assert parse("slack", self.MENTION | {"event": {"type": "a"} | inner}).subject == subject

    @pytest.mark.parametrize(
        ("second", "is_time"),
        [
            (946_684_800, True),  # 2000-01-01
            (946_684_799, False),
            (253_370_764_799, True),
            (253_370_764_800, False),  # 9999-01-01
            (True, False),
            (946_684_800.0, False),
            ("946684800", False),
        ],
    )
    def test_the_time_is_whole_seconds_between_2000_and_9999(self, second: object, is_time: bool) -> None:  # noqa: FBT001
        parsed = parse("slack", self.MENTION | {"event_time": second})
        assert (parsed.occurred_at is not None) is is_time
        assert parsed.signed_at == parsed.occurred_at

    def test_a_slash_command_is_rejected(self) -> None:
        with pytest.raises(Rejected):
            events.parse("slack", b"token=gIkuvaNzQIHg97ATvDxqgjtO&command=%2Fweather", ())


class TestShopify:
    ORDER: Final = {"id": 820982911946154508, "created_at": "2021-12-31T19:00:00-05:00", "total_price": "199.00"}

    def test_the_type_is_the_topic(self) -> None:
        parsed = parse("shopify", self.ORDER, x_shopify_topic="orders/create", x_shopify_shop_domain="a.myshopify.com")
        assert (parsed.type, parsed.subject) == ("orders/create", "820982911946154508")
        assert parsed.occurred_at == datetime(2022, 1, 1, tzinfo=UTC)

    @pytest.mark.parametrize(
        ("body", "subject"),
        [
            ({"admin_graphql_api_id": "gid://shopify/Order/1", "id": 1}, "gid://shopify/Order/1"),
            ({"admin_graphql_api_id": "", "id": 1}, "1"),
            ({"id": "1"}, None),
            ({}, None),
        ],
    )
    def test_the_subject_is_the_global_id_else_the_number(self, body: dict[str, Any], subject: str | None) -> None:
        assert parse("shopify", body).subject == subject

    def test_the_time_is_that_of_the_last_change(self) -> None:
        changed = self.ORDER | {"updated_at": "2022-01-02T00:00:00Z"}
        assert parse("shopify", changed).occurred_at == datetime(2022, 1, 2, tzinfo=UTC)
        assert parse("shopify", changed).signed_at is None

    def test_the_identity_is_the_body_whatever_the_unsigned_headers_say(self) -> None:
        made = {
            parse("shopify", self.ORDER, x_shopify_topic=topic, x_shopify_shop_domain=shop, x_shopify_event_id=shop)
            for topic in ("orders/create", "orders/paid")
            for shop in ("a.myshopify.com", "b.myshopify.com")
        }
        assert len({it.fingerprint for it in made}) == 1
        assert made.pop().fingerprint != parse("shopify", self.ORDER | {"total_price": "200.00"}).fingerprint

    def test_the_topic_of_the_newer_events_is_in_the_signed_body(self) -> None:
        body = {"topic": "Product", "action": "create", "handle": "x"}
        assert parse("shopify", body, shopify_topic="Order").type == "product/create"

    def test_without_a_topic_the_type_is_unknown(self) -> None:
        assert parse("shopify", self.ORDER).type == "unknown"
        assert parse("shopify", self.ORDER, x_shopify_topic="orders create").type == "unknown"


class TestMeta:
    def test_the_type_is_the_object(self) -> None:
        body = {"object": "whatsapp_business_account", "entry": [{"id": "102290129340398", "changes": []}]}
        parsed = parse("meta", body)
        assert (parsed.type, parsed.subject) == ("whatsapp_business_account", "102290129340398")
        assert parse("meta", {"entry": []}).type == "unknown"


class TestWithoutAFile:
    BODY: Final = {"type": "user.created", "timestamp": "2022-11-03T20:26:10.344522Z", "data": {"id": "1f81"}}

    def test_type_and_time_are_what_the_body_says(self) -> None:
        parsed = parse("openai", self.BODY, signed_id="msg_1")
        assert (parsed.type, parsed.subject) == ("user.created", None)
        assert parsed.occurred_at == datetime(2022, 11, 3, 20, 26, 10, 344522, tzinfo=UTC)

    def test_a_signed_id_is_the_identity(self) -> None:
        first = parse("openai", self.BODY, signed_id="msg_1")
        assert first.fingerprint == parse("openai", self.BODY | {"more": 1}, signed_id="msg_1").fingerprint
        assert first.fingerprint != parse("openai", self.BODY, signed_id="msg_2").fingerprint
        assert first.fingerprint != parse("clerk", self.BODY, signed_id="msg_1").fingerprint

    def test_an_id_that_is_not_signed_is_none(self) -> None:
        unsigned = parse("openai", self.BODY, webhook_id="msg_1")
        assert unsigned.fingerprint == parse("openai", self.BODY, webhook_id="msg_2").fingerprint


@dataclass(frozen=True, kw_only=True)
class Row:
    """An event as it is stored."""

    provider: str
    type: str
    body: bytes
    headers: dict[str, str]


def test_a_stored_event_is_loaded_with_the_type_that_its_headers_gave() -> None:
    body = json.dumps(TestGitHub.PULL).encode()
    headers: Headers = ((b"x-github-event", b"pull_request"),)
    stored = Row(provider="github", type="pull_request.opened", body=body, headers={"x-github-event": "pull_request"})
    assert events.load(stored) == events.parse("github", body, headers).event
