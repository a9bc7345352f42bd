"""What is shipped for Prometheus and Grafana, by their own check and unit tests of the rules."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
CASES = Path(__file__).with_name("prometheus_rules.yml")
PROMTOOL = shutil.which("promtool") or "/usr/bin/promtool"
ALERTS = re.findall(r"- alert: (\w+)", RULES.read_text())

needs_promtool = pytest.mark.skipif(
    not Path(PROMTOOL).exists(), reason="promtool is not installed: apt-get install prometheus"
)


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run([PROMTOOL, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
def test_promtool_accepts_the_configuration_and_its_rules() -> None:
    assert "SUCCESS" in promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yml")


@needs_promtool
def test_promtool_accepts_the_configuration_of_compose(tmp_path: Path) -> None:
    for file in (DEPLOY / "docker" / "prometheus.yml", RULES):
        shutil.copy(file, tmp_path)
    assert "SUCCESS" in promtool("check", "config", tmp_path / "prometheus.yml")


@needs_promtool
def test_each_alert_fires_on_its_fault_and_ends_with_it() -> None:
    promtool("test", "rules", CASES)


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_has_a_case_in_which_it_fires_one_in_which_it_does_not_and_its_link(alert: str) -> None:
    cases = re.findall(rf"alertname: {alert}\b(, exp_alerts: \[\])?", CASES.read_text())
    assert set(cases) == {"", ", exp_alerts: []"}
    rule = RULES.read_text().partition(f"alert: {alert}\n")[2].partition("- alert:")[0]
    assert re.search(r"labels: \{severity: (page|ticket)\}", rule)
    assert "summary: " in rule
    assert f"runbook: deploy/RUNBOOK.md#{alert.lower()}\n" in rule


def test_the_dashboard_asks_for_no_panel_twice_and_lets_people_choose_their_prometheus() -> None:
    panels = json.loads((DEPLOY / "grafana" / "pipeline.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) == len({panel["title"] for panel in panels})
    assert {target["datasource"]["uid"] for panel in panels for target in panel["targets"]} == {"${datasource}"}
