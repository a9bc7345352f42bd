"""The page on the ingress names every answer and every metric, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from ingress import errors
from ingress.metrics import Metrics

PAGE = (Path(__file__).parents[2] / "deploy" / "INGRESS.md").read_text()


def test_every_answer_is_on_the_page() -> None:
    refusals = {(it.status, it.code) for it in vars(errors).values() if isinstance(it, errors.Refusal)}
    named = {(int(status), code) for status, code in re.findall(r"^\| (\d+) \| `(\w+)` \|", PAGE, re.MULTILINE)}
    assert named == refusals


def test_every_metric_is_on_the_page() -> None:
    served = {
        f"{metric.name}_total" if metric.type == "counter" else metric.name: metric.type
        for metric in Metrics().registry.collect()
        if metric.name.startswith("ingress_")
    }
    assert dict(re.findall(r"^\| `(ingress_\w+)` \| (\w+) \|", PAGE, re.MULTILINE)) == served
