"""The page on the figures for Prometheus has every figure of the exporter with its type, labels and meaning."""

from __future__ import annotations

import re
from pathlib import Path

from deploy.exporter.figures import FIGURES

PAGE = (Path(__file__).parents[2] / "deploy" / "METRICS.md").read_text()


def test_the_table_is_the_code() -> None:
    rows = re.findall(r"^\| `(pipeline_\w+)` \| (\w+) \| (.*?) ?\| (.*?) \|$", PAGE, re.MULTILINE)
    assert rows == [(it.name, it.type, ", ".join(it.labels), it.about) for it in FIGURES.values()]


def test_every_figure_that_the_text_names_exists() -> None:
    assert set(re.findall(r"`(pipeline_\w+)`", PAGE)) <= set(FIGURES)
