"""What a worker admits after a message: one of `express` leaves the filling of `handlers` to those that serve it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

from tests.names import NAMES
from workers.live_workers import LiveWorker, say_live

if TYPE_CHECKING:
    from pathlib import Path

    from redis import Redis

    from tests.integration.conftest import AddDeliveries
    from workers.store.connect import Connection

HANDLERS: Final = """
from workers import handler

@handler("quiet.run")
def run(event, delivery):
    pass
"""
SCRIPT: Final = """
import sys
from celery.app.trace import build_tracer
from celery import signals
from workers.tasks import app

queue, event_id = sys.argv[1:]
signals.celeryd_init.send(sender="test", options={"queues": ["handlers"]})
app.finalize()
trace = build_tracer("quiet.run", app.tasks["quiet.run"], app=app)
request = {"id": event_id, "hostname": "here", "delivery_info": {"routing_key": queue}}
trace(event_id, [[f"quiet/{event_id}"]], {}, request)
"""


@pytest.mark.parametrize(("queue", "waiting", "sent"), [("handlers", 0, 8), ("express", 0, 1), ("express", 1, 0)])
def test_after_an_express_message_one_of_a_flood_is_sent_at_most_and_none_while_another_express_one_waits(  # noqa: PLR0917 - pytest's
    tmp_path: Path,
    connection: Connection,
    client: Redis,
    add_deliveries: AddDeliveries,
    database_url: str,
    redis_url: str,
    queue: str,
    waiting: int,
    sent: int,
) -> None:
    (tmp_path / "quiet_handlers.py").write_text(HANDLERS)
    (event_id,) = add_deliveries(1, tenant="quiet", handler="quiet.run")
    connection.execute("UPDATE deliveries SET state = 'queued', ready = false, lease_until = now() + interval '1 min'")
    add_deliveries(5000, tenant="flood", handler="flood.run")
    for queues, slots in ((("express", "handlers"), 4), (("express",), 1)):
        worker = LiveWorker(id=queues[-1], name="test", queues=queues, slots=slots, code_version="1")
        say_live(client, NAMES, worker, [("quiet.run", "1"), ("flood.run", "1")])
    for _ in range(waiting):
        client.lpush(NAMES.express_queue, "a message")
    environ = os.environ | {
        "HANDLERS": "quiet_handlers",
        "PYTHONPATH": str(tmp_path),
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
    }
    subprocess.run([sys.executable, "-c", SCRIPT, queue, str(event_id)], env=environ, check=True)
    (row,) = connection.execute("SELECT state FROM deliveries_done")
    assert row["state"] == "succeeded"
    assert client.llen(NAMES.handlers_queue) == sent
