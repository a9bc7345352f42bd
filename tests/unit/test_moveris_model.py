"""Moveris events: strict on what a handler decides on, open to what is new."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers import events
from workers.events import GenericEvent, Parsed, Rejected
from workers.events.moveris import Verification, VerificationCompleted, VerificationFailed

if TYPE_CHECKING:
    from pydantic import BaseModel

SESSION = "550e8400-e29b-41d4-a716-446655440000"
COMPLETED: dict[str, Any] = {
    "event": "verification.completed",
    "session_id": SESSION,
    "timestamp": "2026-03-27T15:26:42.123456Z",
    "data": {
        "verdict": "live",
        "confidence": 0.94,
        "real_score": 0.94,
        "score": 94.0,
        "type": "VERY HIGH",
        "session_id": SESSION,
        "model": "mixed-10-v2",
        "input_source": "rest_frames",
        "processing_ms": 845,
        "frames_processed": 10,
        "tenant_metadata": None,
        "warning": None,
        "created_at": "2026-03-27T15:26:42.123456Z",
    },
}


def changed(path: str, value: object) -> dict[str, Any]:
    """Return the documented example with one field changed."""
    payload = copy.deepcopy(COMPLETED)
    *parents, last = path.split(".")
    place = payload
    for parent in parents:
        place = place[parent]
    place[last] = value
    return payload


def without(path: str) -> dict[str, Any]:
    payload = copy.deepcopy(COMPLETED)
    *parents, last = path.split(".")
    place = payload
    for parent in parents:
        place = place[parent]
    del place[last]
    return payload


def parse(payload: object, headers: events.Headers = ()) -> Parsed:
    return events.parse("moveris", json.dumps(payload).encode(), headers)


def rejection(payload: object) -> Rejected:
    with pytest.raises(Rejected) as raised:
        parse(payload)
    return raised.value


def test_the_documented_example_is_a_typed_event() -> None:
    parsed = parse(COMPLETED)
    event = parsed.event
    assert isinstance(event, VerificationCompleted)
    assert (parsed.type, parsed.subject) == ("verification.completed", SESSION)
    assert parsed.occurred_at == datetime(2026, 3, 27, 15, 26, 42, 123456, UTC)
    assert (event.provider, event.type, event.subject) == ("moveris", parsed.type, SESSION)
    assert (event.session_id, event.data.verdict, event.data.score) == (SESSION, "live", 94.0)
    assert parsed.notes == ()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.verdict", "maybe"),
        ("data.verdict", "LIVE"),
        ("data.verdict", None),
        ("data.confidence", 1.01),
        ("data.confidence", -0.01),
        ("data.confidence", "0.9"),
        ("data.confidence", True),
        ("data.real_score", None),
        ("data.real_score", 2),
        ("data.score", 100.5),
        ("data.score", "94"),
        ("data.score", False),
        ("data.model", ""),
        ("data.model", 7),
        ("data.created_at", "2026-03-27T15:26:42"),
        ("data.created_at", "yesterday"),
        ("data.created_at", 1774625202),
        ("data.created_at", "2026"),
        ("timestamp", None),
        ("timestamp", "0001-01-01T00:00:00+12:00"),
        ("timestamp", "9999-12-31T23:59:59-12:00"),
        ("session_id", ""),
        ("session_id", 12),
        ("session_id", "x" * 201),
        ("data.tenant_metadata", "text"),
        ("data", []),
        ("event", 5),
        ("event", ""),
    ],
)
def test_a_field_that_a_handler_decides_on_is_not_bent_into_shape(path: str, value: object) -> None:
    refused = rejection(changed(path, value))
    assert refused.reason == "schema_mismatch"
    assert path.rsplit(".", maxsplit=1)[-1] in refused.detail


@pytest.mark.parametrize(
    "path",
    ["event", "session_id", "timestamp", "data", "data.verdict", "data.confidence", "data.real_score", "data.score",
     "data.model", "data.created_at"],
)  # fmt: skip
def test_a_missing_field_is_named(path: str) -> None:
    refused = rejection(without(path))
    assert refused.reason == "schema_mismatch"
    assert refused.detail.startswith(path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.type", "SOMEWHAT HIGH"),
        ("data.input_source", "hologram"),
        ("data.model", "mixed-900-v7"),
        ("data.tenant_metadata", {"a": {"b": [1, None]}}),
        ("data.warning", {"code": "dark"}),
        ("data.confidence", 1),
        ("data.score", 0),
        ("data.session_id", None),
        ("data.liveness_v3", {"new": True}),
        ("region", "eu"),
    ],
)
def test_what_is_new_or_optional_passes(path: str, value: object) -> None:
    assert parse(changed(path, value)).type == "verification.completed"


def test_unknown_fields_stay_reachable() -> None:
    event = parse(changed("data.liveness_v3", {"new": True})).event
    assert isinstance(event, VerificationCompleted)
    assert event.data.model_extra == {"liveness_v3": {"new": True}}


def test_two_session_ids_that_contradict_each_other_are_rejected() -> None:
    assert rejection(changed("data.session_id", "other")).reason == "session_mismatch"


@dataclass(frozen=True, kw_only=True)
class Row:
    """An event as it is stored."""

    type: str
    body: bytes
    provider: str = "moveris"
    headers: dict[str, str] = field(default_factory=dict)


FAILED = {"event": "verification.failed", "session_id": SESSION, "timestamp": "2026-03-27T15:26:42Z", "data": {}}


@pytest.mark.parametrize("payload", [COMPLETED, FAILED, COMPLETED | {"event": "verification.reviewed"}])
def test_a_stored_event_is_loaded_as_it_was_parsed(payload: dict[str, Any]) -> None:
    assert events.load(Row(type=payload["event"], body=json.dumps(payload).encode())) == parse(payload).event


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (changed("data.session_id", "other"), "session_mismatch"),
        (FAILED | {"data": {"session_id": "other"}}, "session_mismatch"),
        (changed("data.score", 101), "schema_mismatch"),
    ],
)
def test_a_stored_event_that_todays_model_refuses_is_not_loaded(payload: dict[str, Any], reason: str) -> None:
    with pytest.raises(Rejected) as raised:
        events.load(Row(type=payload["event"], body=json.dumps(payload).encode()))
    assert raised.value.reason == reason


def test_a_failed_verification_has_no_verdict() -> None:
    payload = {
        "event": "verification.failed",
        "session_id": SESSION,
        "timestamp": "2026-03-27T15:26:42Z",
        "data": {"error": "processing_error", "message": "no face"},
    }
    event = parse(payload).event
    assert isinstance(event, VerificationFailed)
    assert event.data["error"] == "processing_error"


def test_an_unknown_event_type_becomes_a_generic_event() -> None:
    payload = {"event": "verification.reviewed", "session_id": SESSION, "timestamp": "2026-03-27T15:26:42Z", "by": "x"}
    parsed = parse(payload)
    assert isinstance(parsed.event, GenericEvent)
    assert (parsed.type, parsed.subject) == ("verification.reviewed", SESSION)
    assert parsed.occurred_at == datetime(2026, 3, 27, 15, 26, 42, tzinfo=UTC)
    assert parsed.event.json() == payload
    assert parsed.event.body == json.dumps(payload).encode()


def test_a_provider_without_a_model_gives_generic_events() -> None:
    body = b'{"type":"invoice.paid","amount":5}'
    parsed = events.parse("in-house", body)
    assert isinstance(parsed.event, GenericEvent)
    assert (parsed.type, parsed.event.provider, parsed.event.body) == ("invoice.paid", "in-house", body)
    assert events.parse("in-house", b"{}").type == "unknown"


def test_the_identity_survives_another_spelling_of_the_same_event() -> None:
    same = changed("data.created_at", "2026-03-27T16:26:42.123456+01:00") | {"timestamp": "2026-03-27T15:30:00Z"}
    assert parse(same).fingerprint == parse(COMPLETED).fingerprint


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.model", "mixed-30-v2"),
        ("data.created_at", "2026-03-27T15:26:42.123457Z"),
        ("session_id", "other"),
    ],
)
def test_another_model_session_or_time_is_another_event(path: str, value: str) -> None:
    payload = changed(path, value)
    payload["data"].pop("session_id")
    assert parse(payload).fingerprint != parse(COMPLETED).fingerprint


def test_a_header_that_contradicts_the_signed_body_is_noted_and_not_obeyed() -> None:
    parsed = parse(
        COMPLETED,
        (
            (b"x-webhook-event", b"verification.failed"),
            (b"x-webhook-session", SESSION.encode()),
            (b"user-agent", b"\xff\x00"),
        ),
    )
    assert parsed.type == "verification.completed"
    assert parsed.notes == (
        "x-webhook-event: the header says 'verification.failed', the signed body 'verification.completed'",
    )


@given(st.binary(max_size=300), st.sampled_from(["moveris", "other", ""]))
def test_any_bytes_are_parsed_or_rejected(body: bytes, provider: str) -> None:
    with suppress(Rejected):
        assert isinstance(events.parse(provider, body), Parsed)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda node: st.lists(node, max_size=3) | st.dictionaries(st.text(max_size=8), node, max_size=3),
    max_leaves=6,
)


@given(
    st.sampled_from(["event", "session_id", "timestamp", "data", *(f"data.{name}" for name in COMPLETED["data"])]),
    values,
)
def test_any_value_in_any_field_is_parsed_or_rejected(path: str, value: object) -> None:
    with suppress(Rejected):
        assert isinstance(parse(changed(path, value)), Parsed)


@pytest.mark.parametrize("model", [VerificationCompleted, VerificationFailed, Verification])
def test_every_field_is_described(model: type[BaseModel]) -> None:
    assert not [name for name, field in model.model_fields.items() if not field.description]


def test_a_rejection_names_five_fields_at_most_and_no_value() -> None:
    payload = copy.deepcopy(COMPLETED)
    for name in ("verdict", "confidence", "real_score", "score", "model", "created_at", "type"):
        payload["data"][name] = ["s3cret"]
    detail = rejection(payload).detail
    assert [it.split(":")[0] for it in detail.split("; ")] == [
        f"data.{name}" for name in ("verdict", "confidence", "real_score", "score", "model")
    ]
    assert "s3cret" not in detail


@pytest.mark.parametrize(
    ("text", "is_time"),
    [
        ("2000-01-01T00:00:00Z", True),
        ("1999-12-31T23:59:59.999999Z", False),
        ("9998-12-31T23:59:59Z", True),
        ("9999-01-01T00:00:00Z", False),
    ],
)
def test_a_time_lies_between_2000_and_9999(text: str, is_time: bool) -> None:  # noqa: FBT001 - the expectation
    if is_time:
        assert parse(changed("data.created_at", text) | {"timestamp": text}).signed_at == datetime.fromisoformat(text)
    else:
        assert rejection(changed("data.created_at", text)).reason == "schema_mismatch"
    generic = events.parse("in-house", json.dumps({"timestamp": text}).encode())
    assert (generic.occurred_at is not None) is is_time


@pytest.mark.parametrize(
    ("tree", "kind"),
    [
        ({"type": "a", "event": "b", "event_type": "c"}, "a"),
        ({"event": "b", "event_type": "c"}, "b"),
        ({"event_type": "c"}, "c"),
        ({"type": "", "event": {"type": "x"}, "event_type": "c"}, "c"),
        ({"type": "x" * 201}, "unknown"),
        ({"type": "x" * 200}, "x" * 200),
    ],
)
def test_the_type_of_a_generic_event_is_the_first_text_that_names_one(tree: dict[str, Any], kind: str) -> None:
    assert events.parse("in-house", json.dumps(tree).encode()).type == kind


def test_the_date_of_a_result_is_that_of_the_result_and_not_of_its_message() -> None:
    later = changed("timestamp", "2026-03-28T00:00:00Z")
    assert parse(later).signed_at == datetime(2026, 3, 27, 15, 26, 42, 123456, UTC)
    failed = {"event": "verification.failed", "session_id": "s", "timestamp": "2026-03-28T00:00:00Z", "data": {}}
    assert parse(failed).signed_at == datetime(2026, 3, 28, tzinfo=UTC)
    assert parse(failed | {"event": "session.opened"}).signed_at == datetime(2026, 3, 28, tzinfo=UTC)
