"""What failed messages leave in a worker's memory: nothing beyond the next message."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

from tests.conftest import SECRETS_KEY

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.conftest import AddDeliveries
    from workers.store.connect import Connection

PER_MESSAGE: Final = 3
HANDLERS: Final = """
import weakref

from workers import handler

held = weakref.WeakSet()

class Held: ...

def fail(event, delivery):
    mine = Held()
    held.add(mine)
    try:
        int("no number")
    except ValueError as error:
        caught = error  # a ring: the error's traceback holds this frame, and this frame the error
        raise ExceptionGroup("both", [caught, KeyError("the second")]) from error

handler("acme.dead", max_attempts=1)(fail)
handler("acme.retry")(fail)
"""
SCRIPT: Final = """
import gc, json, logging, sys
from celery.app.trace import build_tracer
import failing_handlers
from celery import signals
from workers.tasks import app

signals.celeryd_init.send(sender="test", options={"queues": ["handlers"]})

logging.disable(logging.CRITICAL)
gc.disable()  # what it finds by itself is found late
name, ids, size = sys.argv[1], sys.argv[2].split(","), int(sys.argv[3])
app.finalize()
trace = build_tracer(name, app.tasks[name], app=app)
alive, objects = [], []
while ids:
    message, ids = ids[:size], ids[size:]
    request = {"id": message[0], "hostname": "here", "delivery_info": {}}
    trace(message[0], [[f"acme/{it}" for it in message]], {}, request)
    alive.append(len(failing_handlers.held))
    objects.append(len(gc.get_objects()))
print(json.dumps([alive, objects]))
"""


@pytest.mark.parametrize("handler", ["acme.dead", "acme.retry"])
def test_what_a_failed_message_had_in_hand_is_gone_with_the_next_one(  # noqa: PLR0917 - pytest's
    tmp_path: Path,
    connection: Connection,
    add_deliveries: AddDeliveries,
    database_url: str,
    redis_url: str,
    handler: str,
) -> None:
    (tmp_path / "failing_handlers.py").write_text(HANDLERS)
    ids = add_deliveries(20 * PER_MESSAGE, handler=handler)
    connection.execute("UPDATE deliveries SET state = 'queued', ready = false, lease_until = now() + interval '1 min'")
    environ = os.environ | {
        "HANDLERS": "failing_handlers",
        "PYTHONPATH": str(tmp_path),
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "SECRETS_KEY": SECRETS_KEY,
    }
    command = [sys.executable, "-c", SCRIPT, handler, ",".join(map(str, ids)), str(PER_MESSAGE)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    alive, objects = json.loads(done.stdout)
    assert alive == [PER_MESSAGE] * 20
    assert objects[-1] - objects[5] < 500  # a message that is kept holds thousands
    (row,) = connection.execute("SELECT count(*) AS failed FROM attempts")
    assert row["failed"] == len(ids)
