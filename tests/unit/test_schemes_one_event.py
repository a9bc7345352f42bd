"""One signature verifies as one event: signed bytes cannot be read back as another id, time, header or body."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from ingress.schemes import compose
from ingress.schemes.declared import Declared, read_time
from ingress.schemes.scheme import BadSchemeError, BadSignature, Key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NOW: Final = 1_614_265_330
KEY: Final = Key(label="a", secret=b"s")
TIMES: Final = {"s": b"1614265330", "ms": b"1614265330000", "iso8601": b"2021-02-25T15:02:10Z"}
ISO: Final = "2021-02-25T15:02:10Z"
TEXTS: Final = st.text("01.|a", max_size=6) | st.sampled_from(
    ["1614265330", "1614265330.", ".1614265330", "01", ISO, f"a{ISO}", f"a.{ISO}|", "2021-02-25T15:02:10+00:00", ":00"]
)
PARTS: Final = st.sampled_from(
    ["{id}", "{timestamp}", "{body}", "{header:X-A}", "{header:X-B}", ".", "|", "aa", "1", "0", ""]
)
CONTENTS: Final = st.lists(PARTS, min_size=1, max_size=7).map("".join) | st.sampled_from(
    ["{timestamp}{body}", "{body}{timestamp}", "{id}{timestamp}{body}", "{id}aa{header:X-A}aa{body}"]
)


def describe(content: str, unit: str) -> Declared:
    """Return the scheme of a template; most are refused."""
    given: dict[str, Any] = {"header": "X-S", "algorithm": "hmac-sha256", "content": content, "timestamp_unit": unit}
    if "{id}" in content:
        given["id"] = "X-Id"
    if "{timestamp}" in content:
        given["timestamp"] = "X-Time"
    return compose(given)


def read_back(parts: Sequence[bytes | int], content: bytes) -> Iterator[dict[int, bytes]]:
    """Yield every way in which the signed bytes can be read by a template, by the places of its placeholders."""
    if not parts:
        if not content:
            yield {}
        return
    part, *rest = parts
    if isinstance(part, bytes):
        if content.startswith(part):
            yield from read_back(rest, content.removeprefix(part))
        return
    for end in [len(content)] if not rest else range(len(content) + 1):
        for others in read_back(rest, content[end:]):
            yield {part: content[:end]} | others


@settings(max_examples=400, deadline=None)
@given(
    content=CONTENTS,
    unit=st.sampled_from(sorted(TIMES)),
    event_id=TEXTS,
    others=st.tuples(TEXTS, TEXTS),
    body=TEXTS,
)
@example(content="{id}{timestamp}{body}", unit="iso8601", event_id="a", others=("", ""), body=f"|{ISO}.")
@example(content="{timestamp}{body}", unit="iso8601", event_id="", others=("", ""), body=":00{}")
@example(content="{id}aa{header:X-A}|{body}", unit="s", event_id="xa", others=("y", ""), body="1")
@example(content="{body}.{id}", unit="s", event_id="a.", others=("", ""), body="1")
def test_no_other_reading_of_signed_bytes_verifies(
    content: str, unit: str, event_id: str, others: tuple[str, str], body: str
) -> None:
    try:
        scheme = describe(content, unit)
    except BadSchemeError:
        assume(False)
    names = {0: b"", 1: b"x-time", 2: b"x-id"} | dict(enumerate(scheme.template.headers, 3))
    values = {0: body, 1: TIMES[unit].decode(), 2: event_id, 3: others[0], 4: others[1]}
    headers = [(names[place], values[place].encode()) for place in names if place]
    signed = scheme.template.fill(
        body=body.encode(), timestamp=TIMES[unit], event_id=event_id.encode(), headers=dict(headers)
    )
    assume(signed is not None)
    assert signed is not None
    signature = (b"x-s", sign(scheme, signed))
    accepted = []
    for reading in read_back(scheme.template._parts, signed):
        sent = [signature, *((names[place], value) for place, value in reading.items() if place)]
        if scheme.verify(keys=[KEY], headers=sent, body=reading[0], now=NOW) is KEY:
            accepted.append(reading)
    assert len(accepted) <= 1, accepted


def sign(scheme: Declared, content: bytes) -> bytes:
    """Return what a provider that knows the secret writes under these bytes."""
    plain = compose({"header": "X-S", "algorithm": "hmac-sha256"})
    return plain.sign(KEY.secret, content)["X-S"].encode()


@pytest.mark.parametrize(
    ("content", "unit", "event_id", "body"),
    [
        ("{id}.{timestamp}.{body}", "s", "msg_1", '{"a": 1}'),
        ("{id}{timestamp}{body}", "iso8601", "befa7b53-d79d-478f-86b9-120f112b044e", '{"at": "' + ISO + '"}'),
        ("{timestamp}{body}", "s", "", "0123"),
        ("{body}{timestamp}", "ms", "", "0123"),
        ("{header:X-A}|{body}|{timestamp}", "s", "", "1|2"),
        ("{id}.{body}|", "s", "a|b", "{}"),
    ],
)
def test_what_providers_sign_verifies_as_exactly_one_event(content: str, unit: str, event_id: str, body: str) -> None:
    scheme = describe(content, unit)
    headers = scheme.sign(KEY.secret, body.encode(), now=NOW, event_id=event_id)
    sent = {name.lower().encode(): value.encode() for name, value in headers.items()}
    assert scheme.verify(keys=[KEY], headers=list(sent.items()), body=body.encode(), now=NOW) is KEY
    names = {1: b"x-time", 2: b"x-id", 3: b"x-a"}
    signed = scheme.template.fill(
        body=body.encode(), timestamp=sent.get(b"x-time", b""), event_id=event_id.encode(), headers=sent
    )
    assert signed is not None
    accepted = []
    for reading in read_back(scheme.template._parts, signed):
        other = [(b"x-s", sent[b"x-s"]), *((names[place], value) for place, value in reading.items() if place)]
        if scheme.verify(keys=[KEY], headers=other, body=reading[0], now=NOW) is KEY:
            accepted.append(reading)
    assert [reading[0] for reading in accepted] == [body.encode()]


@pytest.mark.parametrize("event_id", ["a.b", "a|b"])
def test_an_id_that_holds_a_text_beside_it_is_not_signed(event_id: str) -> None:
    template = describe("{body}.{id}|", "s").template
    assert template.fill(body=b"{}", timestamp=b"", event_id=b"a-b", headers={}) == b"{}.a-b|"
    assert template.fill(body=b"{}", timestamp=b"", event_id=event_id.encode(), headers={}) is None


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        *(("s", text) for text in (b"01614265330", b"+1614265330", b" 1614265330", b"1614265330.0", b"1_614_265_330")),
        *(
            ("s", text)
            for text in (
                b"1614265330\n",
                "".join(chr(0xFF10 + int(it)) for it in "1614265330").encode(),
                b"0",
                b"1" * 16,
                b"",
            )
        ),
        *(("ms", text) for text in (b"01614265330000", b"1614265330.000")),
        ("iso8601", b"2021-02-25 15:02:10Z"),
        ("iso8601", b"2021-02-25T15:02:10"),
        ("iso8601", b"2021-02-25T15:02Z"),
        ("iso8601", b"2021-02-25T15:02:10+00"),
        ("iso8601", b"2021-02-25T15:02:10+00:00:00"),
        ("iso8601", b"20210225T150210Z"),
        ("iso8601", b"2021-W08-4T15:02:10Z"),
        ("iso8601", b"2021-02-25T15:02:10.0123456789Z"),
        ("iso8601", b"2021-02-30T15:02:10Z"),
        ("iso8601", b"2021-02-25T15:02:10Z\n"),
    ],
)
def test_a_time_that_is_spelt_in_another_way_is_none(unit: str, text: bytes) -> None:
    assert read_time(text, unit) is None
    scheme = describe("{timestamp}.{body}", unit)
    headers = [(b"x-time", text), (b"x-s", sign(scheme, text + b".{}"))]
    verdict = scheme.verify(keys=[KEY], headers=headers, body=b"{}", now=NOW)
    assert verdict is (BadSignature.STALE if text else BadSignature.INVALID)


@pytest.mark.parametrize(
    ("unit", "text", "moment"),
    [
        ("s", b"1614265330", NOW),
        ("s", b"999999999999999", 999_999_999_999_999),
        ("ms", b"1614265330123", NOW + 0.123),
        ("iso8601", b"2021-02-25T15:02:10Z", NOW),
        ("iso8601", b"2021-02-25T16:02:10.5+01:00", NOW + 0.5),
        ("iso8601", b"2021-02-25T15:02:10.123456789Z", NOW + 0.123456),
    ],
)
def test_a_time_is_read_in_its_unit(unit: str, text: bytes, moment: float) -> None:
    assert read_time(text, unit) == pytest.approx(moment)
    assert datetime.fromtimestamp(NOW, UTC).isoformat() == "2021-02-25T15:02:10+00:00"


@pytest.mark.parametrize(
    ("unit", "text"), [("s", "1614265330"), ("ms", "1614265330250"), ("iso8601", f"{ISO[:-1]}.250Z")]
)
def test_a_time_is_written_in_its_unit(unit: str, text: str) -> None:
    assert describe("{timestamp}.{body}", unit).sign(b"s", b"", now=NOW + 0.25)["X-Time"] == text


@pytest.mark.parametrize(
    ("content", "signed"),
    [
        ("{timestamp}|{url}|{body}", b"1614265330|https://a/b|{}"),
        ("{timestamp}{url}{body}", b"1614265330https://a/b{}"),
        ("{{{timestamp}}}.{body}", b"{1614265330}.{}"),
        ("{header:X-A}.{timestamp}.{body}{url}", b"id.1614265330.{}https://a/b"),
    ],
)
def test_the_signed_content_is_what_the_template_says(content: str, signed: bytes) -> None:
    scheme = compose(
        {"header": "X-S", "algorithm": "hmac-sha256", "content": content, "timestamp": "X-Time", "url": "https://a/b"}
    )
    assert scheme.sign(KEY.secret, b"{}", now=NOW, event_id="id")["X-S"].encode() == sign(scheme, signed)
