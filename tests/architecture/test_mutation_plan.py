"""The plan of the mutation run names files, tests and texts that are there."""

from __future__ import annotations

import tomllib

from tests.mutation.__main__ import PLAN, ROOT, choose_cases


def test_every_mutant_and_every_test_that_the_plan_names_is_there() -> None:
    plan = tomllib.loads(PLAN.read_text())
    named = {word for it in choose_cases(plan, 1, 1) for word in it.tests if word.startswith("tests/")}
    assert [word for word in sorted(named) if not (ROOT / word).exists()] == []


def test_what_the_plan_excuses_still_stands_in_its_file() -> None:
    plan = tomllib.loads(PLAN.read_text())
    excused = [*plan["equivalent"], *plan["survivor"]]
    gone = [
        it["old"]
        for it in excused
        if " ".join(it["old"].split()) not in " ".join((ROOT / it["file"]).read_text().split())
    ]
    assert excused
    assert not gone
