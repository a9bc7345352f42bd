"""What a benchmark writes into the documents."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import documents, report
from tests.benchmarks.growth import CURVES
from tests.benchmarks.targets import TARGETS

ROOT = Path(__file__).parents[2]


def section(*, full: bool, at: str, last: float = 110.0) -> dict[str, Any]:
    curve = {"x": "so many", "y": "µs", "lines": {"one": [[1.0, 100.0], [10_000_000.0, last]]}, "flat": True}
    return {"curves": {"event by so many": curve}, "tables": {}, "full": full, "at": at}


def run_of(growth: dict[str, Any]) -> dict[str, Any]:
    figures = {name: 2.0 for target in TARGETS for name in (target.ours, target.other) if name}
    machine = {"cores": 2, "system": "Linux", "load": 0.1}
    return {"rounds": [figures, figures], "machine": machine, "curves": {}, "tables": {}, "growth": growth}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    (tmp_path / "deploy").mkdir()
    shutil.copy(ROOT / "README.md", tmp_path / "README.md")
    for name in ("PERFORMANCE.md", "SCALING.md"):
        shutil.copy(ROOT / "deploy" / name, tmp_path / "deploy" / name)
    return tmp_path


def test_the_readme_stays_short_and_the_page_on_performance_has_every_figure_and_curve(results: Path) -> None:
    report.write_json(run_of({name: section(full=True, at="2026-01-01") for name in CURVES}), "full")
    readme, performance = results / "README.md", results / "deploy" / "PERFORMANCE.md"
    assert documents.update_all(results) == [readme, performance]
    assert len(readme.read_text().splitlines()) < 200
    assert all((target.title in readme.read_text()) == target.in_readme for target in TARGETS)
    assert all(target.title in performance.read_text() for target in TARGETS)
    assert "| event by so many: one | µs | 100 at 1 | 110 at 1e+07 | 1.10 | yes |" in performance.read_text()


def test_writing_twice_changes_nothing(results: Path) -> None:
    report.write_json(run_of({"inbox": section(full=False, at="2026-01-01")}), "full")
    documents.update_all(results)
    once = (results / "README.md").read_text()
    documents.update_all(results)
    assert (results / "README.md").read_text() == once


def test_the_run_that_went_farther_speaks_for_a_curve() -> None:
    small, large = section(full=False, at="2026-02-01"), section(full=True, at="2026-01-01")
    full, growth = run_of({"inbox": small}), {"growth": {"inbox": large}}
    assert documents.farthest(full, growth)["growth"]["inbox"] is large
    assert documents.farthest(run_of({"inbox": large}), {"growth": {"inbox": small}})["growth"]["inbox"] is large


def test_without_costs_the_page_on_scaling_stays_as_it_is(results: Path) -> None:
    report.write_json(run_of({}), "full")
    before = (results / "deploy" / "SCALING.md").read_text()
    documents.update_all(results)
    assert (results / "deploy" / "SCALING.md").read_text() == before


def test_the_page_on_scaling_divides_the_cores_by_the_cost(results: Path) -> None:
    figures = {f"cpu {name}": 100e-6 for name in documents.SERVERS}
    figures |= {"redis memory, waiting": 800.0, "redis file, written": 900.0, "postgres log, written": 3000.0}
    for table in ("events", "receipts", "deliveries_done"):
        figures |= {f"postgres {table}": 1000.0, f"postgres {table}, of it indexes": 100.0}
    costs = section(full=True, at="2026-01-01") | {"figures": figures | {"events_per_second": 2500.0}}
    report.write_json(run_of({"costs": costs}), "growth")
    assert documents.update_all(results) == [results / "deploy" / "SCALING.md"]
    text = (results / "deploy" / "SCALING.md").read_text()
    assert "| A | CPU per million events, all the way | 800 s |" in text
    assert "| B | a box of these cores holds | 2,500 events/s |" in text
    assert "| K | Postgres, a million stored | 3.00 GB |" in text
