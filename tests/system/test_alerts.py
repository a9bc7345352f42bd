"""A real Prometheus watches the stack by what is shipped for it: alerts fire and end, every panel shows figures."""

from __future__ import annotations

import json
import logging
import math
import shutil
import signal
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import runbook
from tests.launching import ROOT, free_port
from tests.system.ledger import EFFECTS
from tests.system.operator import run, started
from tests.system.prometheus import needs_prometheus, prometheus
from tests.system.provider import Load
from tests.system.stack import PREFIX, Stack
from tests.system.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.prometheus import Prometheus

log = logging.getLogger(__name__)
"""What was measured; shown by `--log-level=info -rA`."""

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "pipeline.json").read_text())
SOON = 60.0
"""Seconds within which an alert has to fire, and to end."""

pytestmark = needs_prometheus


@pytest.fixture(scope="module")
def watching(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that looks every second instead of every ten."""
    home = tmp_path_factory.mktemp("prometheus")
    with prometheus(
        home, exporter_url=stack.exporter_url, ingress_ports=stack.ingress_metrics_ports, interval="1s"
    ) as it:
        yield it


@pytest.mark.long  # a minute, until every rate has something to tell
def test_every_panel_of_the_dashboard_shows_figures(stack: Stack, watching: Prometheus) -> None:
    endpoint = stack.endpoint("watched")
    endpoint.deliver(b"{")
    endpoint.post(b"{}", headers={"X-Webhook-Signature": "sha256=00"})
    stack.pipeline("handlers", "limit", "effects.anyone", "--tenant", "watched", "--rate", "1/m")
    stack.pipeline("send", "watched", "--event=failure.permanent")
    left = {target["expr"]: panel["title"] for panel in DASHBOARD["panels"] for target in panel["targets"]}

    def look() -> bool:
        stack.pipeline("send", "watched", "--event=effect.anyone")
        for expression in list(left):
            if any(math.isfinite(float(sample["value"][1])) for sample in watching.query(expression)):
                del left[expression]
        return not left

    try:
        until(look, seconds=90, what="figures of all panels", every=1.0)
    except AssertionError:
        pytest.fail(f"no figures in {left}")


@pytest.mark.long
def test_a_worker_that_is_killed_and_not_started_again_is_told_until_it_is_back(
    stack: Stack, watching: Prometheus
) -> None:
    with stack.held_down("ingest", by=signal.SIGKILL):
        stack.pipeline("send", "watched", "--event=effect.anyone")
        log.info("told after %.0f s", watching.wait_for({"PipelineNotDraining", "PipelineWorkerGone"}, seconds=SOON))
    over = watching.wait_for_end({"PipelineNotDraining", "PipelineWorkerGone"}, seconds=SOON)
    log.info("ended after %.0f s", over)


@pytest.mark.long
def test_an_ingress_that_is_killed_is_told_until_the_command_of_the_runbook_has_started_another(
    stack: Stack, watching: Prometheus
) -> None:
    (line,) = runbook.commands("PipelineIngressDown")
    with stack.held_down("ingress", by=signal.SIGKILL):
        log.info("told after %.0f s", watching.wait_for({"PipelineIngressDown"}, seconds=SOON))
        with started(stack, line):
            log.info("ended after %.0f s", watching.wait_for_end({"PipelineIngressDown"}, seconds=SOON))
            stack.endpoint("watched").deliver(b"{}")


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli is not installed: apt-get install redis-tools")
def test_each_fault_that_pages_is_told_within_a_minute_and_ended_by_what_the_runbook_says() -> None:
    home = Path(tempfile.mkdtemp(prefix="pipeline-alerts-", dir="/tmp"))
    home.chmod(0o755)
    settings = {"INGRESS_WORKERS": "1", "INGRESS_METRICS_PORT": str(free_port()), "LOG_LEVEL": "info"}
    with ExitStack() as exits:
        exits.callback(shutil.rmtree, home, ignore_errors=True)
        stack = exits.enter_context(Stack(home, handlers=("effects",), environ=settings))
        stack.query(EFFECTS)
        stack.add_tenants("acme")
        endpoint = stack.endpoint("acme")
        it = exits.enter_context(
            prometheus(home, exporter_url=stack.exporter_url, ingress_ports=stack.ingress_metrics_ports)
        )
        exits.enter_context(Load(endpoint, rate=5, event="effect.anyone"))
        assert not {name for name, severity in it.firing() if severity == "page"}

        stopped = {"PipelineNotDraining", "PipelineHousekeepingStopped"}
        with ExitStack() as down:
            for name in ("handlers", "express"):
                down.enter_context(stack.held_down(name, by=signal.SIGKILL))
            with stack.redis() as redis:
                until(lambda: redis.llen(f"{PREFIX}handlers"), seconds=SOON, what="messages of handlers")
            for name in ("ingest", "beat"):
                down.enter_context(stack.held_down(name, by=signal.SIGKILL))
            log.info("workers: %.0f s", it.wait_for(stopped, seconds=SOON))
            # a minute in which no handler ends is what this one is about
            log.info("handlers: %.0f s more", it.wait_for({"PipelineHandlersStopped"}, seconds=SOON))
            for section in (*stopped, "PipelineHandlersStopped"):
                for line in filter(runbook.STARTS_A_PROCESS.match, runbook.commands(section)):
                    down.enter_context(started(stack, line))
            log.info("workers, end: %.0f s", it.wait_for_end({*stopped, "PipelineHandlersStopped"}, seconds=SOON))

        with stack.redis() as redis:
            redis.config_set("appendfsync", "everysec")
        log.info("%s: %.0f s", "durability", it.wait_for({"PipelineNotDurable"}, seconds=SOON))
        run(stack, *runbook.commands("PipelineNotDurable"))
        log.info("%s: %.0f s", "durability, end", it.wait_for_end({"PipelineNotDurable"}, seconds=SOON))

        away = {"PipelinePostgresAway", "PipelineRedisAway", "PipelineEventsRefused"}
        with stack.held_down("postgres", by=signal.SIGKILL), stack.held_down("valkey", by=signal.SIGKILL):
            log.info("%s: %.0f s", "servers", it.wait_for(away, seconds=SOON))
        log.info("%s: %.0f s", "servers, end", it.wait_for_end(away, seconds=2 * SOON))

        with stack.held_down("exporter", by=signal.SIGKILL):
            log.info("%s: %.0f s", "exporter", it.wait_for({"PipelineExporterDown"}, seconds=SOON))
            with started(stack, runbook.commands("PipelineExporterDown")[0]):
                log.info("%s: %.0f s", "exporter, end", it.wait_for_end({"PipelineExporterDown"}, seconds=SOON))
        until(lambda: not {name for name, level in it.firing() if level == "page"}, seconds=SOON, what="silence")
