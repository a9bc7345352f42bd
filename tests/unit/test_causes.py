"""What is left of an error when its variable parts are taken out: real errors, of Python and of libraries."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.dispatch.outcomes import describe
from workers.housekeeping.causes import MOST_CHARACTERS, cause_of

if TYPE_CHECKING:
    from collections.abc import Callable

CAUSES: dict[str, tuple[str, ...]] = {
    # httpx, requests, urllib3, urllib
    "HTTPStatusError: Server error '503 Service Unavailable' for url <value>": (
        "HTTPStatusError: Server error '503 Service Unavailable' for url 'https://crm.example/users/a81'",
        "HTTPStatusError: Server error '503 Service Unavailable' for url 'https://crm.example/users/7?page=2'",
    ),
    "HTTPStatusError: Client error '404 Not Found' for url <value>": (
        "HTTPStatusError: Client error '404 Not Found' for url 'https://crm.example/users/7'",
        "HTTPStatusError: Client error '404 Not Found' for url 'https://crm.example/orders/0198c0de-0000-7000-8000-00ab'",
    ),
    "HTTPError: 429 Client Error: Too Many Requests for url: <url>": (
        "HTTPError: 429 Client Error: Too Many Requests for url: https://api.example.com/v1/charges/ch_3N8dk2",
        "HTTPError: 429 Client Error: Too Many Requests for url: https://api.example.com/v1/charges/ch_19",
    ),
    "ReadTimeout: HTTPSConnectionPool(host=<value>, port=<n>): Read timed out. (read timeout=<n>)": (
        "ReadTimeout: HTTPSConnectionPool(host='eu.crm.example', port=443): Read timed out. (read timeout=10)",
        "ReadTimeout: HTTPSConnectionPool(host='us.crm.example', port=8443): Read timed out. (read timeout=9.5)",
    ),
    "URLError: <urlopen error [Errno 111] Connection refused>": (
        "URLError: <urlopen error [Errno 111] Connection refused>",
    ),
    "ConnectTimeout: timed out": ("ConnectTimeout: timed out",),
    # sockets and names
    "ConnectionRefusedError: [Errno 111] Connection refused": (
        "ConnectionRefusedError: [Errno 111] Connection refused",
    ),
    "ConnectionResetError: [Errno 104] Connection reset by peer": (
        "ConnectionResetError: [Errno 104] Connection reset by peer",
    ),
    "gaierror: [Errno -2] Name or service not known": ("gaierror: [Errno -2] Name or service not known",),
    "ConnectionError: cannot reach <address> after <n>": (
        "ConnectionError: cannot reach 10.0.0.7:5432 after 30 s",
        "ConnectionError: cannot reach 10.0.0.81 after 2.5s",
        "ConnectionError: cannot reach redis-3.internal:6379 after 500ms",
        "ConnectionError: cannot reach [fe80::1ff:fe23:4567:890a]:6379 after 500 ms",
    ),
    # Postgres
    "OperationalError: connection failed: connection to server at <value>, port <n> failed: Connection refused": (
        'OperationalError: connection failed: connection to server at "10.2.0.1", port 5432 failed: Connection refused',
        'OperationalError: connection failed: connection to server at "10.2.0.9", port 6432 failed: Connection refused',
    ),
    "UniqueViolation: duplicate key value violates unique constraint <value>": (
        'UniqueViolation: duplicate key value violates unique constraint "users_pkey"',
    ),
    "DeadlockDetected: deadlock detected": ("DeadlockDetected: deadlock detected",),
    "QueryCanceled: canceling statement due to statement timeout": (
        "QueryCanceled: canceling statement due to statement timeout",
    ),
    "UndefinedTable: relation <value> does not exist": ('UndefinedTable: relation "users" does not exist',),
    # Redis
    "ConnectionError: Error <n> connecting to <address>. Connection refused.": (
        "ConnectionError: Error 111 connecting to localhost:6379. Connection refused.",
        "ConnectionError: Error 111 connecting to 10.0.0.4:6380. Connection refused.",
    ),
    # parsing
    "JSONDecodeError: Expecting value: line <n> column <n> (char <n>)": (
        "JSONDecodeError: Expecting value: line 1 column 7 (char 6)",
        "JSONDecodeError: Expecting value: line 12 column 2 (char 120)",
    ),
    "KeyError: <value>": ("KeyError: 'acme'", "KeyError: 'globex'", 'KeyError: "it\'s"'),
    "ValidationError: <n> validation errors for User": (
        "ValidationError: 2 validation errors for User",
        "ValidationError: 3 validation errors for User",
    ),
    "ValidationError: <n> validation errors for Order": ("ValidationError: 2 validation errors for Order",),
    "ValueError: invalid literal for int() with base <n>: <value>": (
        "ValueError: invalid literal for int() with base 10: '12a'",
        "ValueError: invalid literal for int() with base 10: ''",
    ),
    "UnicodeDecodeError: <value> codec can't decode byte <hex> in position <n>: invalid start byte": (
        "UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
        "UnicodeDecodeError: 'utf-8' codec can't decode byte 0x9d in position 4711: invalid start byte",
    ),
    # code: names in it are no values
    "AttributeError: 'NoneType' object has no attribute 'email'": (
        "AttributeError: 'NoneType' object has no attribute 'email'",
    ),
    "AttributeError: 'NoneType' object has no attribute 'name'": (
        "AttributeError: 'NoneType' object has no attribute 'name'",
    ),
    "ModuleNotFoundError: No module named 'acme_crm'": ("ModuleNotFoundError: No module named 'acme_crm'",),
    "TypeError: grant() missing <n> required positional argument: 'plan'": (
        "TypeError: grant() missing 1 required positional argument: 'plan'",
    ),
    "ZeroDivisionError: division by zero": ("ZeroDivisionError: division by zero",),
    "AssertionError:": ("AssertionError: ",),
    # files
    "FileNotFoundError: [Errno 2] No such file or directory: <value>": (
        "FileNotFoundError: [Errno 2] No such file or directory: '/var/lib/app/7/a.json'",
        "FileNotFoundError: [Errno 2] No such file or directory: '/tmp/tmpab12_x/a.json'",
    ),
    "OSError: [Errno 28] No space left on device": ("OSError: [Errno 28] No space left on device",),
    "RuntimeError: cannot write <path>": (
        "RuntimeError: cannot write /tmp/tmpq8k_/export.csv",
        "RuntimeError: cannot write /tmp/tmpzzab/export.csv",
    ),
    "RuntimeError: cannot read /srv/exports/<n>/users.csv": (
        "RuntimeError: cannot read /srv/exports/17/users.csv",
        "RuntimeError: cannot read /srv/exports/4/users.csv",
    ),
    # a team's own words
    "LookupError: no such user": ("LookupError: no such user",),
    "LookupError: no user <id>": (
        "LookupError: no user 0198c0de-4242-7000-8000-0123456789ab",
        "LookupError: no user cus_9sYJ2k1",
        "LookupError: no user 01HZX3T5QK8V9WZ0ABCDEF1234",
    ),
    "LookupError: no user <n> in plan <value>": (
        "LookupError: no user 4711 in plan 'gold'",
        'LookupError: no user 12 in plan "silver"',
    ),
    "Permanent: the account of <email> is closed since <time>": (
        "Permanent: the account of ann@example.com is closed since 2026-03-27",
        "Permanent: the account of bob.b+x@mail.example.org is closed since 2026-03-27T15:26:01.5+02:00",
        "Permanent: the account of c@example.com is closed since 2026-11-01 09:00:00Z",
    ),
    "CRMError: HTTP 502 from the CRM in <n>": (
        "CRMError: HTTP 502 from the CRM in 31.5 ms",
        "CRMError: HTTP 502 from the CRM in 8 ms",
    ),
    "CRMError: HTTP 503 from the CRM in <n>": ("CRMError: HTTP 503 from the CRM in 8 ms",),
    "RateLimited: status code 429, retry after <n>": (
        "RateLimited: status code 429, retry after 30 s",
        "RateLimited: status code 429, retry after 7 s",
    ),
    "ValueError: unknown items: [<value>]": (
        "ValueError: unknown items: ['a']",
        "ValueError: unknown items: ['a', 'b', 'c']",
    ),
    "ValueError: bad rows <n>": ("ValueError: bad rows 1, 2, 3", "ValueError: bad rows 4"),
    "RuntimeError: object at <hex> is gone": (
        "RuntimeError: object at 0x7f3a5c0d1e80 is gone",
        "RuntimeError: object at 0x7f3a5c0d0000 is gone",
    ),
    "RuntimeError: no commit <hex>": ("RuntimeError: no commit 14c662e9", "RuntimeError: no commit e770d66abc12"),
    # the pipeline's own
    "WorkerLost: the process that ran it ended or did not answer before its lease was over (<address>)": (
        "WorkerLost: the process that ran it ended or did not answer before its lease was over (web-1:4711)",
        "WorkerLost: the process that ran it ended or did not answer before its lease was over (web-2.eu:81)",
    ),
    "Timeout: the handler did not return within its timeout of <n>": (
        "Timeout: the handler did not return within its timeout of 30 s",
        "Timeout: the handler did not return within its timeout of 1 s",
    ),
    "EventGone: the event <id> is no longer stored": (
        "EventGone: the event 0198c0de-4242-7000-8000-0123456789ab is no longer stored",
    ),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_errors_of_one_cause_leave_the_same(cause: str) -> None:
    assert {cause_of(error) for error in CAUSES[cause]} == {cause}


def _no_such_plan() -> None:
    plans: dict[str, int] = {}
    plans["gold"]


RAISED: tuple[tuple[Callable[[], object], str], ...] = (
    (lambda: json.loads('{"a": tru'), "JSONDecodeError: Expecting value: line <n> column <n> (char <n>)"),
    (lambda: UUID("zz"), "ValueError: badly formed hexadecimal UUID string"),
    (lambda: Decimal("x"), "InvalidOperation: [<class <value>>]"),
    (
        b"\xff".decode,
        "UnicodeDecodeError: <value> codec can't decode byte <hex> in position <n>: invalid start byte",
    ),
    (_no_such_plan, "KeyError: <value>"),
)


@pytest.mark.parametrize(("act", "cause"), RAISED)
def test_what_is_recorded_of_a_raised_error_has_its_cause(act: Callable[[], object], cause: str) -> None:
    try:
        act()
    except Exception as error:  # noqa: BLE001 - whatever it raises is the case
        line, _ = describe(error)
    assert cause_of(line) == cause


def test_a_quoted_value_that_was_cut_off_is_taken_out() -> None:
    lines = [f"ValueError: no such body: '{letter * 2000}'"[:1000] for letter in "ab"]
    assert {cause_of(line) for line in lines} == {"ValueError: no such body: <value>"}


@given(st.text(max_size=400))
def test_any_text_has_a_bounded_cause(text: str) -> None:
    assert len(cause_of(text)) <= MOST_CHARACTERS


@given(st.integers(min_value=0, max_value=10**12), st.ip_addresses(v=4))
def test_ids_numbers_and_addresses_make_no_difference(number: int, address: object) -> None:
    def error(*values: object) -> str:
        return "LookupError: user {} with {} of {} (order {})".format(*values)

    assert cause_of(error(uuid4(), number, address, "'x'")) == cause_of(error(uuid4(), 7, "10.0.0.1", "'y'"))


def test_the_longest_line_takes_milliseconds() -> None:
    """No pattern backtracks without end: each of these takes a millisecond or two, and the hang limit would be hit."""
    for sign in ("a", "1", "a1", "/a", ":", "'", "1.", "a-", "0:", "@a.", "x1_"):
        cause_of("ValueError: " + (sign * 1000)[:988])
