"""How texts of options and forms are read: times that can be stored and read again, and nothing beyond."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import typer

from deploy.cli import arguments

Parse = Callable[[str], Any]


def test_a_time_is_read_in_utc() -> None:
    assert arguments.moment("2026-03-27T15:26+02:00") == datetime(2026, 3, 27, 13, 26, tzinfo=UTC)
    assert arguments.moment("9999-12-31T23:59:59") == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize("parse", [arguments.moment, arguments.past, arguments.future])
@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00+14:00"])
def test_a_time_whose_year_has_five_digits_or_none_in_utc_is_refused(parse: Parse, text: str) -> None:
    with pytest.raises(typer.BadParameter, match="no time between the years 1 and 9999"):
        parse(text)


@pytest.mark.parametrize("parse", [arguments.duration, arguments.past, arguments.future])
@pytest.mark.parametrize("text", ["365001d", "3000000d", "9999999999999d", "9" * 400 + "w"])
def test_a_duration_of_more_than_a_thousand_years_is_refused(parse: Parse, text: str) -> None:
    with pytest.raises(typer.BadParameter, match="nothing takes more than 1,000 years"):
        parse(text)


def test_the_longest_duration_leads_to_a_time_before_and_after_now() -> None:
    assert arguments.duration("365000d") == timedelta(days=365_000)
    assert arguments.past("365000d").year < arguments.future("365000d").year


@pytest.mark.parametrize("text", ["1e308/s", "1e10/s", "1e-320/s", "1/x", "0/s", "-1/s", "nan", "inf"])
def test_a_rate_is_one_that_somebody_could_have(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no rate"):
        arguments.rate(text)


@pytest.mark.parametrize("text", ["0", "0.5", "9" * 400 + "G", str(2**63), "1TB"])
def test_a_size_is_a_number_of_bytes_that_postgres_can_hold(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no size"):
        arguments.size(text)
