"""Traces cost nothing where no collector is named, and follow the SDK's own variables where one is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import SECRETS_KEY

ENVIRON = {
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
    "SECRETS_KEY": SECRETS_KEY,
}
NAMED = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
SAMPLED = """
from datetime import UTC, datetime
from shared.envelope import new_event_id
from shared.otlp import OtlpTraces
traces = OtlpTraces("http://127.0.0.1:1", service="test")
ids = [new_event_id(datetime.now(UTC)) for _ in range(4000)]
kept = [it for it in ids if traces._is_sampled(it)]
again = OtlpTraces("http://127.0.0.1:1", service="another")
print(len(kept), kept == [it for it in ids if again._is_sampled(it)])
"""


def run(code: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=os.environ | ENVIRON | more, capture_output=True, text=True, check=False)


def test_without_a_collector_nothing_that_makes_or_sends_spans_is_imported() -> None:
    # redis-py imports what opentelemetry has for metrics, where that is installed
    names = "[it for it in ('shared.otlp', 'opentelemetry.sdk.trace', 'opentelemetry.exporter') if it in sys.modules]"
    done = run(f"import ingress.connections, ingress.asgi, workers.tasks, sys; print({names})")
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("module", ["ingress.asgi", "workers.app"])
def test_a_collector_without_the_packages_that_speak_to_it_ends_the_start_with_one_line(module: str) -> None:
    code = f"import sys; sys.modules['opentelemetry'] = None; import ingress.connections, {module}"
    done = run(code, **NAMED)
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert "OTEL_EXPORTER_OTLP_ENDPOINT is set, and opentelemetry is not installed: pip install '.[otel]'" in line


@pytest.mark.parametrize(("share", "least", "most"), [("0.25", 850, 1150), ("0.75", 2850, 3150), ("1", 4000, 4000)])
def test_a_share_of_the_events_is_traced_and_every_process_keeps_the_same_ones(
    share: str, least: int, most: int
) -> None:
    done = run(SAMPLED, OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG=share)
    count, is_same = done.stdout.split()
    assert least <= int(count) <= most
    assert is_same == "True"
