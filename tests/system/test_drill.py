"""The drill of twelve faults: each is told, put right by what the runbook says, and over; nothing is lost."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from tests.system import drill
from tests.system.prometheus import needs_prometheus

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1800),
    needs_prometheus,
    pytest.mark.skipif(
        not (shutil.which("redis-cli") and shutil.which("psql")),
        reason="redis-cli or psql is not installed: apt-get install redis-tools postgresql-client",
    ),
]


def test_each_of_twelve_faults_is_told_and_ends_by_the_command_of_the_runbook() -> None:
    rows = drill.drill_all()
    sys.stdout.write(drill.table(rows))
    expected = {it.__doc__ for it in drill.ALL}
    if not (sys.platform == "linux" and os.geteuid() == 0):
        expected.discard(drill.full_disk.__doc__)
    assert {row.about for row in rows} == expected


def test_the_table_of_the_runbook_has_each_fault_once() -> None:
    shown = drill.RUNBOOK.read_text().partition(drill.MARKS[0])[2].partition(drill.MARKS[1])[0]
    abouts = [line.split(" | ")[1] for line in shown.splitlines()[2:]]
    assert abouts == [(it.__doc__ or "").rstrip(".") for it in drill.ALL]
