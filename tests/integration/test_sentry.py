"""What deploy/LOGGING.md tells teams to do for Sentry, run as it stands there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.launching import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.conftest import AddDeliveries
    from workers.store.connect import Connection

COUNT: Final = 500
PER_MESSAGE: Final = 100
MEMORY: Final = """
import functools
import sentry_sdk

class Memory(sentry_sdk.transport.Transport):
    events = []

    def capture_envelope(self, envelope):
        self.events.append(envelope.get_event())

sentry_sdk.init = functools.partial(sentry_sdk.init, dsn="https://key@localhost/1", transport=Memory)
"""
HANDLERS: Final = """
import logging
from workers import handler

@handler("acme.dead", max_attempts=1)
def dead(event, delivery):
    raise LookupError(f"no user {delivery.event_id}")

@handler("acme.other", max_attempts=1)
def other(event, delivery):
    raise LookupError("the same error, in another handler")

@handler("acme.retry")
def retry(event, delivery):
    raise ValueError("comes again")

@handler("acme.logs")
def logs(event, delivery):
    logging.getLogger("team").error("by itself")
"""
SCRIPT: Final = """
import json, sys
from celery import signals
from celery.app.trace import build_tracer
from workers import app as worker
from workers.tasks import app

worker._set_up_logging()
signals.celeryd_init.send(sender="test", options={"queues": ["handlers"]})
import reporting_handlers

app.finalize()
for name, ids in json.loads(sys.stdin.read()):
    run = build_tracer(name, app.tasks[name], app=app)
    run(ids[0], [[f"acme/{it}" for it in ids]], {}, {"id": ids[0], "delivery_info": {}})
print(json.dumps(reporting_handlers.Memory.events, default=str))
"""


@pytest.fixture
def report(
    tmp_path: Path, connection: Connection, add_deliveries: AddDeliveries, database_url: str, redis_url: str
) -> Any:
    """Return a function that runs deliveries in a worker's own tasks and returns what Sentry is sent."""
    (block,) = re.findall(r"```python\n(import sentry_sdk.*?)```", (ROOT / "deploy/LOGGING.md").read_text(), re.DOTALL)
    (tmp_path / "reporting_handlers.py").write_text(MEMORY + block + HANDLERS)

    def run(*handlers: tuple[str, int]) -> list[dict[str, Any]]:
        messages = []
        for name, count in handlers:
            ids = [str(it) for it in add_deliveries(count, handler=name)]
            messages += [(name, ids[start : start + PER_MESSAGE]) for start in range(0, count, PER_MESSAGE)]
        connection.execute(
            "UPDATE deliveries SET state = 'queued', ready = false, lease_until = now() + interval '1 min'"
        )
        environ = {
            **os.environ,
            "HANDLERS": "reporting_handlers",
            "PYTHONPATH": str(tmp_path),
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "MESSAGE_SECONDS": "60",
        }
        command = [sys.executable, "-c", SCRIPT]
        done = subprocess.run(
            command, env=environ, input=json.dumps(messages), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    return run


@pytest.mark.long
def test_deliveries_that_die_of_one_error_in_one_handler_are_one_issue_with_the_traceback_of_it(report: Any) -> None:
    events = report(("acme.dead", COUNT), ("acme.other", 1), ("acme.retry", 1))
    assert Counter(tuple(it["fingerprint"]) for it in events) == {
        ("acme.dead", "LookupError"): COUNT,
        ("acme.other", "LookupError"): 1,
    }
    assert len({it["tags"]["event_id"] for it in events}) == COUNT + 1
    assert {it["tags"]["tenant"] for it in events} == {"acme"}
    raised = events[0]["exception"]["values"][-1]
    assert raised["type"] == "LookupError"
    assert raised["stacktrace"]["frames"][-1]["function"] == "dead"


def test_an_error_that_a_handler_logs_by_itself_is_an_issue_of_its_own(report: Any) -> None:
    (event,) = report(("acme.logs", 1))
    assert event["logentry"]["message"] == "by itself"
    assert event["extra"]["handler"] == "acme.logs"
    assert "fingerprint" not in event
