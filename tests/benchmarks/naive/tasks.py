"""The workers: one task stores the event, a second one runs the handler.

Generous where tutorials differ: a database connection is kept by each process, and there is no result backend.
"""

from __future__ import annotations

import json
import os
import socket
from functools import cache
from typing import Any

import psycopg
from celery import Celery

app = Celery("naive", broker=os.environ["REDIS_URL"])
app.conf.task_ignore_result = True


@cache
def connection() -> psycopg.Connection[Any]:
    """Return this process's connection."""
    return psycopg.connect(os.environ["DATABASE_URL"])


@app.task
def store_event(provider: str, tenant: str, body: str) -> None:
    """Store the event once, then have it handled."""
    payload = json.loads(body)
    with connection().transaction():
        row = (
            connection()
            .execute(
                "INSERT INTO naive_events (provider, tenant, session_id, body) VALUES (%s, %s, %s, %s)"
                " ON CONFLICT (session_id) DO NOTHING RETURNING id",
                [provider, tenant, payload["session_id"], body],
            )
            .fetchone()
        )
    if row:
        handle_event.delay(row[0])


@app.task(autoretry_for=(Exception,), retry_backoff=True, max_retries=5)
def handle_event(event_id: int) -> None:
    """Run the handler and note that it ran, in one transaction."""
    with connection().transaction():
        row = connection().execute("SELECT body FROM naive_events WHERE id = %s", [event_id]).fetchone()
        if row:
            HANDLERS[os.environ["NAIVE_HANDLER"]](row[0])
        connection().execute("UPDATE naive_events SET handled_at = now() WHERE id = %s", [event_id])


def do_nothing(payload: dict[str, Any]) -> None:
    """Handle an event by doing nothing."""


def write_a_row(payload: dict[str, Any]) -> None:
    """Handle an event by a write of the team's own."""
    connection().execute("INSERT INTO grants (session_id) VALUES (%s)", [payload["session_id"]])


def tell(payload: dict[str, Any]) -> None:
    """Tell the harness at once that the event was handled."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as notice:
        notice.sendto(payload["session_id"].encode(), ("127.0.0.1", int(os.environ["NOTICE_PORT"])))


HANDLERS = {"nothing": do_nothing, "write": write_a_row, "tell": tell}
