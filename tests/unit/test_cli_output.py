"""What a command prints where no terminal reads it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from deploy.cli.output import emit

if TYPE_CHECKING:
    import pytest


def test_a_row_is_one_line_without_folding_whatever_is_in_its_cells(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "two\nlines \x1b[31mred" + "x" * 300
    emit([{"last_error": hostile, "id": 1}, {"last_error": "日本", "id": None}], "last_error", "id")
    head, first, second = capsys.readouterr().out.splitlines()
    assert first == f"two lines  [31mred{'x' * 300}  1"
    assert head.index("id") == first.rindex("1")
    assert second == "日本" + " " * (len(first) - 5) + "-"


def test_ten_thousand_rows_take_no_seconds_of_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"tenant": f"tenant-{number}", "weight": 1, "paused": None} for number in range(10_000)]
    before = time.process_time()
    emit(rows, "tenant", "weight", "paused")
    assert time.process_time() - before < 1
    assert len(capsys.readouterr().out.splitlines()) == 10_001
