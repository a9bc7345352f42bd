"""Work made in advance: entries in the inbox, messages for the peers, rows in Postgres.

Guarantees: what is made is what the ingress and the drain would have made. Rows are made by the server itself
(`generate_series`), a million in some seconds.
"""

from __future__ import annotations

import socket
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from hiredis import pack_command

from shared.envelope import Envelope, encode, new_event_id
from tests.benchmarks.bodies import SIZE, TENANT, make_body
from tests.names import NAMES

if TYPE_CHECKING:
    from tests.benchmarks.ground import Place
    from workers.store.connect import Connection

CHUNK: Final = 500
_HEADERS: Final = (
    (b"user-agent", b"Moveris-Webhooks/1.0"),
    (b"content-type", b"application/json"),
    (b"x-webhook-event", b"verification.completed"),
)


def fill_inbox(place: Place, count: int, *, size: int = SIZE, tenant: str = TENANT) -> None:
    """Append entries as the ingress does, each of a new session."""
    url = urlsplit(place.redis_url)
    prefix = uuid.uuid4().hex[:20]
    with socket.create_connection((url.hostname or "", url.port or 0)) as connection:
        greeting = (("AUTH", url.password or ""), ("SELECT", url.path.strip("/")))
        _say(connection, [pack_command(command) for command in greeting])  # type: ignore[arg-type] # see ingress.inbox
        for start in range(0, count, CHUNK):
            commands = []
            for number in range(start, min(start + CHUNK, count)):
                now = datetime.now(UTC)
                envelope = Envelope(
                    id=new_event_id(now),
                    provider="moveris",
                    tenant=tenant,
                    secret_label="a",
                    received_at=now,
                    headers=_HEADERS,
                    body=make_body(f"{prefix}{number:016d}", size),
                )
                fields = [part for pair in encode(envelope).items() for part in pair]
                commands.append(pack_command((b"XADD", NAMES.inbox, b"*", *fields)))  # type: ignore[arg-type] # the same
            _say(connection, commands)


def _say(connection: socket.socket, commands: list[bytes]) -> None:
    """Send commands and wait for as many replies of one or two lines."""
    connection.sendall(b"".join(commands))
    waiting = len(commands)
    rest = b""
    while waiting:
        rest += connection.recv(1 << 20)
        *lines, rest = rest.split(b"\r\n")
        for line in lines:
            if line.startswith(b"-"):
                raise RuntimeError(line.decode())
            waiting -= not line.startswith(b"$")


_BODY_SQL: Final = """
convert_to('{"event":"verification.completed","session_id":"' || id || '","timestamp":"2026-01-05T12:00:00Z","data":'
    || '{"session_id":"' || id || '","verdict":"live","confidence":0.94,"real_score":0.94,"score":94.0,'
    || '"type":"VERY HIGH","model":"mixed-30-v2","input_source":"rest_frames","processing_ms":412,'
    || '"frames_processed":30,"created_at":"2026-01-05T12:00:00Z","tenant_metadata":{"note":"'
    || repeat('x', 600 - 426) || '"}}}', 'UTF8')
"""
_IDS: Final = """
SELECT overlay(uuid_at(%(start)s + n * %(step)s)::text placing
               '7' || substr(salt, 1, 3) || '-8' || substr(salt, 4, 3) || '-' || substr(salt, 7, 12)
               from 15)::uuid AS id,
       %(start)s + n * %(step)s AS moment, sha256(convert_to(salt, 'UTF8')) AS fingerprint,
       replace(%(tenant)s, '*', (n %% %(tenants)s)::text) AS tenant
FROM (SELECT n, md5(n::text || %(salt)s) AS salt FROM generate_series(0, %(count)s - 1) AS n OFFSET 0) AS numbers
"""
_FILL: Final = f"""
WITH ids AS MATERIALIZED ({_IDS}), stored AS (
    INSERT INTO events (id, provider, tenant, type, subject, occurred_at, received_at, stored_at, headers, body,
                        secret_label, fingerprint, state)
    SELECT id, 'moveris', tenant, 'verification.completed', id::text, moment, moment, moment, '{{}}', {_BODY_SQL}, 'a',
           fingerprint, 'accepted'
    FROM ids
), receipted AS (
    INSERT INTO receipts (tenant, provider, fingerprint, event_id)
    SELECT tenant, 'moveris', fingerprint, id FROM ids WHERE %(receipts)s
), finished AS (
    INSERT INTO deliveries_done (event_id, handler, tenant, state, attempt, fence, created_at, finished_at)
    SELECT id, handler, tenant, 'succeeded', 1, 1, moment, moment
    FROM ids CROSS JOIN unnest(%(done)s::text[]) AS handler
)
INSERT INTO deliveries (event_id, handler, tenant)
SELECT id, handler, tenant FROM ids CROSS JOIN unnest(%(pending)s::text[]) AS handler
"""


def fill_pending(connection: Connection, count: int, *, handler: str, tenant: str = TENANT, tenants: int = 1) -> None:
    """Make stored events whose deliveries wait; a `*` in `tenant` stands for a number below `tenants`."""
    _fill(connection, count, tenant=tenant, tenants=tenants, pending=[handler], done=[], hours=0.1)


def fill_history(connection: Connection, count: int, *, days_ago: float, tenants: int) -> None:
    """Make one day's handled events, with receipts, that many days ago."""
    _fill(
        connection, count, tenant="tenant-*", tenants=tenants, pending=[], done=["bench.nothing"],
        hours=23.9, days_ago=days_ago,
    )  # fmt: skip


def _fill(
    connection: Connection,
    count: int,
    *,
    tenant: str,
    tenants: int,
    pending: list[str],
    done: list[str],
    hours: float,
    days_ago: float = 0,
) -> None:
    connection.execute(
        "SELECT set_config('bench.start', (date_trunc('day', now()) - make_interval(secs => %s))::text, false)",
        [days_ago * 86_400],
    )
    row = connection.execute("SELECT current_setting('bench.start')::timestamptz AS start").fetchone()
    assert row
    parameters = {
        "start": row["start"] if days_ago else datetime.now(UTC),
        "step": f"{hours * 3600 / count:.9f} seconds",
        "salt": uuid.uuid4().hex,
        "count": count,
        "tenant": tenant,
        "tenants": tenants,
        "pending": pending,
        "done": done,
        "receipts": bool(done),
    }
    query = _FILL.replace("%(start)s", "%(start)s::timestamptz").replace("%(step)s", "%(step)s::interval")
    with connection.transaction():
        connection.execute(query, parameters)
