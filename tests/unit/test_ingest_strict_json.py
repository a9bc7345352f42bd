"""JSON is read strictly, and each way of being wrong has its own reason."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.events.model import Rejected
from workers.events.strict_json import LARGEST, MAX_DEPTH, SMALLEST, read_object

names = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
trees = st.dictionaries(
    names,
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(SMALLEST, LARGEST)
        | st.floats(allow_nan=False, allow_infinity=False)
        | names,
        lambda node: st.lists(node, max_size=4) | st.dictionaries(names, node, max_size=4),
        max_leaves=12,
    ),
    max_size=5,
)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty_body"),
        (b'\xef\xbb\xbf{"event":"x"}', "byte_order_mark"),
        (b'{"event":"\xff"}', "invalid_utf8"),
        (b'{"event":"\xed\xa0\x80"}', "invalid_utf8"),
        (b"Hello, World!", "invalid_json"),
        (b'{"a":1} {"a":2}', "invalid_json"),
        (b'{"a":01}', "invalid_json"),
        (b'{"a":1,}', "invalid_json"),
        (b"{'a':1}", "invalid_json"),
        (b'{"a":"\x00"}', "invalid_json"),
        (b'{"a":"\\ud800"}', "invalid_json"),
        (b"   ", "invalid_json"),
        (b"[]", "not_an_object"),
        (b'"text"', "not_an_object"),
        (b"null", "not_an_object"),
        (b"17", "not_an_object"),
        (b'{"a":1,"a":1}', "duplicate_key"),
        (b'{"a":1,"b":{"c":[{"d":1,"d":2}]}}', "duplicate_key"),
        (b'{"a":"x:y","a" :"x"}', "duplicate_key"),
        (b'{"a":1,"\\u0061":2}', "duplicate_key"),
        (b'{"a\\/":1,"a/":2}', "duplicate_key"),
        (b'{"a":[],"a":[]}', "duplicate_key"),
        (b'{"a":NaN}', "non_finite_number"),
        (b'{"a":[Infinity]}', "non_finite_number"),
        (b'{"a":-Infinity}', "non_finite_number"),
        (b'{"a":1e999}', "non_finite_number"),
        (b'{"a":{"b":-1e999}}', "non_finite_number"),
        (b'{"a":%d}' % (LARGEST + 1), "integer_too_large"),
        (b'{"a":%d}' % (SMALLEST - 1), "integer_too_large"),
        (b'{"a":[1' + b"0" * 5000 + b"]}", "integer_too_large"),
        (b'{"a":' * MAX_DEPTH + b"{}" + b"}" * MAX_DEPTH, "too_deep"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "too_deep"),
        (b'{"a":' + b"[" * 100_000, "too_deep"),
        (b'{"a":"\\u0000"}', "nul_character"),
        (b'{"a":[{"x\\u0000":1}]}', "nul_character"),
    ],
)
def test_each_kind_of_bad_json_is_rejected_for_its_own_reason(body: bytes, reason: str) -> None:
    with pytest.raises(Rejected) as rejection:
        read_object(body)
    assert rejection.value.reason == reason


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":"\\\\u0000"}',
        b'{"a":"\\"b\\":1,\\"b\\":2"}',
        b'{"a":{"k":1},"b":{"k":1}}',
        b'{"a" : "x" , "b":":"}',
        b'{"a":%d,"b":%d}' % (LARGEST, SMALLEST),
        b'{"a":1e308,"b":-0,"c":0.1}',
        b'{"a":' * (MAX_DEPTH - 1) + b"{}" + b"}" * (MAX_DEPTH - 1),
        '{"ä":"\U0001f600","\\ud83d\\ude00":1}'.encode(),
        b" \r\n\t{}\n",
    ],
)
def test_unusual_but_unambiguous_json_is_read(body: bytes) -> None:
    assert read_object(body) == json.loads(body)


@given(trees, st.booleans())
def test_any_tree_is_read_as_it_was_written(tree: dict[str, Any], escaped: bool) -> None:  # noqa: FBT001 - drawn
    assert read_object(json.dumps(tree, ensure_ascii=escaped).encode()) == tree


@given(trees.filter(bool), st.data(), st.booleans())
def test_a_key_written_twice_is_never_read(tree: dict[str, Any], data: st.DataObject, escaped: bool) -> None:  # noqa: FBT001 - drawn
    key = data.draw(st.sampled_from(sorted(tree)))
    pairs = [(key, data.draw(names)), *tree.items()]
    text = ",".join(f"{json.dumps(k, ensure_ascii=escaped)}:{json.dumps(v, ensure_ascii=escaped)}" for k, v in pairs)
    with pytest.raises(Rejected) as rejection:
        read_object(f"{{{text}}}".encode())
    assert rejection.value.reason == "duplicate_key"
