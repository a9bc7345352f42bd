"""What the soak run calls flat, and what it calls growing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chaos.soak import Sample, Soak

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 1200


def soak(name: str, *, memory: Callable[[int], float], files: Callable[[int], int]) -> Soak:
    samples = [Sample(at, memory(at), files(at)) for at in range(0, SECONDS, 5)]
    return Soak(seconds=SECONDS, rate=80, samples={name: samples})


@pytest.mark.parametrize(
    "memory",
    [
        pytest.param(lambda at: 25.0, id="level"),
        pytest.param(lambda at: 20 + 5 * min(1, at / 600), id="filling for the first half"),
        pytest.param(lambda at: 24.2 if at < 950 else 25.8, id="one step"),
    ],
)
def test_what_ends_is_flat(memory: Callable[[int], float]) -> None:
    assert not soak("handlers 1", memory=memory, files=lambda at: 30).growing


@pytest.mark.parametrize(
    "memory",
    [
        pytest.param(lambda at: 25 + 2.4 * at / SECONDS, id="a slope"),
        pytest.param(lambda at: 25.0 + at // 200, id="stairs"),
        pytest.param(lambda at: 24 if at < 950 else 27, id="a step that is no arena"),
    ],
)
def test_what_goes_on_and_on_is_growing(memory: Callable[[int], float]) -> None:
    assert soak("handlers 1", memory=memory, files=lambda at: 30).growing == ["handlers 1"]


@pytest.mark.parametrize(("name", "grows"), [("handlers 1", True), ("postgres 1", False)])
def test_descriptors_that_fall_back_are_pardoned_to_postgres_only(name: str, grows: bool) -> None:  # noqa: FBT001 - a case
    def files(at: int) -> int:
        return 6 + at % 150 // 15 * 12

    assert bool(soak(name, memory=lambda at: 5.0, files=files).growing) is grows


def test_a_leak_of_descriptors_is_growing() -> None:
    assert soak("postgres 1", memory=lambda at: 5.0, files=lambda at: 30 + at // 150).growing == ["postgres 1"]
