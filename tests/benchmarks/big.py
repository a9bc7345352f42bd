"""A big installation: a month of 10,000,000 events of 10,000 tenants, 1,000,000 open deliveries, and its operation.

Rows are made by the server itself, a day at a time into its partitions. A few tenants send most of the events. Receipts
are left out: only ingest workers read them (`--growth history` measures that).

The data may be kept: the folder is used again until the tables change more than a migration can follow.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psycopg
import redis
from cryptography.fernet import Fernet
from psycopg import sql

from deploy.local.servers import prepare_postgres, prepare_valkey
from shared.registry import Cipher
from tests.benchmarks.bodies import SECRET
from tests.benchmarks.ground import DISK, Place
from tests.benchmarks.processes import run_server
from tests.launching import free_port
from tests.names import NAMES
from workers.housekeeping.publishing import Publisher
from workers.store import tenants
from workers.store.migrate import migrate
from workers.store.partitions import ensure_partitions, partition_name

if TYPE_CHECKING:
    from collections.abc import Iterator

EVENTS: Final = 10_000_000
OPEN: Final = 1_000_000
TENANTS: Final = 10_000
DAYS: Final = 30
LIVE: Final = ("quiet-0", "flood-0")
"""Tenants with endpoints of this run's key, for live traffic; see tests/benchmarks/handlers/fair.py."""
_MAKERS: Final = 2
_IN_A_HURRY: Final = (
    "fsync=off",
    "full_page_writes=off",
    "max_wal_size=16GB",
    "autovacuum=off",
    "checkpoint_timeout=1h",
)

_EVENTS: Final = """
INSERT INTO {events} (id, provider, tenant, type, subject, occurred_at, received_at, stored_at, headers, body,
                      secret_label, fingerprint, state, reject_reason)
SELECT id, 'moveris', 'tenant-' || floor(%(tenants)s * luck ^ 3)::integer,
       CASE WHEN reason IS NULL THEN CASE WHEN n %% 20 = 0 THEN 'session.opened' ELSE 'verification.completed' END END,
       'session-' || salt, moment, moment, moment + interval '50 ms', '{{"content-type": "application/json"}}',
       convert_to('{{"event":"verification.completed","session_id":"session-' || salt
                  || '","data":{{"verdict":"live"}}}}', 'UTF8'),
       'a', decode(salt, 'hex'), CASE WHEN reason IS NULL THEN 'accepted' ELSE 'rejected' END, reason
FROM (
    SELECT n, salt, moment, random() AS luck,
           CASE n %% 1000 WHEN 1 THEN 'invalid_json' WHEN 2 THEN 'too_old' WHEN 3 THEN 'missing_field' END AS reason,
           overlay(
               uuid_at(moment)::text placing
               '7' || substr(salt, 1, 3) || '-8' || substr(salt, 4, 3) || '-' || substr(salt, 7, 12) from 15
           )::uuid AS id
    FROM (
        SELECT n, md5(n || %(salt)s) AS salt,
               %(day)s::date AT TIME ZONE 'UTC' + n * interval '1 day' / %(count)s AS moment
        FROM generate_series(0, %(count)s - 1) AS n OFFSET 0
    ) AS numbers OFFSET 0
) AS made
"""
# One of fifty is dead, by one of forty causes; the latest days' deliveries for one handler are open (see _OPEN).
_DONE: Final = """
INSERT INTO {deliveries_done} (event_id, handler, tenant, state, attempt, fence, worker, last_error, created_at,
                               finished_at, incident)
SELECT id, handler, tenant, CASE WHEN cause IS NULL THEN 'succeeded' ELSE 'dead' END, 1, 1, 'handlers@host',
       'ValueError: the answer was ' || cause, stored_at, stored_at + interval '20 ms', cause
FROM (
    SELECT id, tenant, stored_at, 'big.handler_' || (get_byte(fingerprint, 2) %% 10) AS handler,
           CASE WHEN get_byte(fingerprint, 0) < 5 THEN 1 + get_byte(fingerprint, 1) %% 40 END AS cause
    FROM {events} WHERE state = 'accepted' OFFSET 0
) AS finished
"""
_ATTEMPTS: Final = """
INSERT INTO {attempts} (event_id, handler, fence, attempt, error, traceback, duration, worker, failed_at)
SELECT event_id, handler, 1, 1, last_error, 'Traceback (most recent call last):\n' || last_error, interval '20 ms',
       worker, finished_at
FROM {deliveries_done} WHERE state = 'dead'
"""
_ARRIVALS: Final = """
INSERT INTO {arrivals} (id, first_id, tenant, provider, received_at, secret_label)
SELECT overlay(id::text placing 'ffff' from 20)::uuid, id, tenant, provider, received_at, 'a'
FROM {events} WHERE get_byte(fingerprint, 3) < 3
"""
# Of a handler that is paused; one of ten has failed and waits for another attempt.
_OPEN: Final = """
INSERT INTO deliveries (event_id, handler, tenant, ready, attempt, fence, due_at, last_error, created_at)
SELECT id, 'big.paused', tenant, NOT failed, failed::integer, failed::integer,
       CASE WHEN failed THEN now() + interval '365 days' ELSE stored_at END,
       CASE WHEN failed THEN 'TimeoutError: no answer after 30 s' END, stored_at
FROM (
    SELECT id, tenant, stored_at, get_byte(fingerprint, 4) < 26 AS failed FROM events
    WHERE state = 'accepted' ORDER BY id DESC LIMIT %(open)s
) AS waiting
"""
_REGISTRY: Final = """
INSERT INTO tenants (name) SELECT 'tenant-' || n FROM generate_series(0, {tenants} - 1) AS n;
INSERT INTO endpoints (tenant, provider, scheme)
SELECT name, provider, to_jsonb(provider) FROM tenants, unnest('{{moveris,github}}'::text[]) AS provider;
INSERT INTO endpoint_secrets (tenant, provider, label, ciphertext)
SELECT tenant, provider, label, {secret} FROM endpoints, unnest('{{a,b}}'::text[]) AS label;
INSERT INTO endpoint_activity (tenant, provider, first_at, last_at, usual_per_hour)
SELECT tenant, provider, now() - interval '30 days', now(), 1 FROM endpoints;
INSERT INTO registered_handlers
    (name, event, tenant, provider, max_attempts, timeout_seconds, schedule, code_version)
SELECT name, 'verification.completed', '*', 'nobody', 10, 30, '{{5,30}}', 'big'
FROM (SELECT 'big.paused' AS name UNION SELECT 'big.handler_' || n FROM generate_series(0, 9) AS n) AS names;
INSERT INTO handler_pauses (handler, paused_by, pause_reason) VALUES ('big.paused', 'someone', 'an outage');
INSERT INTO handler_limits (handler, tenant, max_in_flight)
SELECT 'big.handler_' || n % 10, 'tenant-' || n, 5 FROM generate_series(0, 999) AS n;
"""
_OPERATED: Final = """
INSERT INTO incidents (kind, subject, cause, example, first_seen, last_seen, count)
SELECT 'failure', 'big.handler_' || n % 10, 'ValueError: the answer was ' || n, 'ValueError: the answer was ' || n,
       now() - interval '30 days', now(), 5000
FROM generate_series(1, 40) AS n;
INSERT INTO incidents (kind, subject, cause, example, first_seen, last_seen, count)
SELECT 'rejected', 'moveris', reason, reason, now() - interval '30 days', now(), 10000
FROM unnest('{invalid_json,too_old,missing_field}'::text[]) AS reason;
INSERT INTO incidents (kind, subject, cause, example, state, first_seen, last_seen, count, resolved_at)
SELECT 'failure', 'big.handler_' || n % 10, 'KeyError: ' || n, 'KeyError: ' || n, 'resolved',
       now() - interval '20 days', now() - interval '10 days', 50, now() - interval '9 days'
FROM generate_series(1, 10000) AS n;
INSERT INTO incident_tenants (incident, tenant, count, last_seen)
SELECT id, 'tenant-' || n, 2, last_seen
FROM incidents, LATERAL generate_series(0, CASE state WHEN 'open' THEN 2999 ELSE 9 END) AS n;
UPDATE incidents AS i SET samples = ARRAY(
    SELECT event_id FROM deliveries_done AS d WHERE d.state = 'dead' AND d.incident = i.id LIMIT 5
) WHERE state = 'open';
INSERT INTO jobs (kind, filter, who, state, expected, is_counted, changed, finished_at)
SELECT 'retry', '{}', 'someone', 'done', 100, true, 100, now() FROM generate_series(1, 10000) AS n;
INSERT INTO job_counts (job, tenant, name, count)
SELECT j.id, 'tenant-' || n, 'big.handler_1', 10 FROM jobs AS j, generate_series(0, 9) AS n;
INSERT INTO audit (who, what, target, after)
SELECT 'person-' || n % 50, 'tenants changed', 'tenant-' || n % 10000, '{"weight": 2}'
FROM generate_series(1, 1000000) AS n;
"""
# What was counted: by the minute in the last two hours, by the hour in the last eight days.
_COUNTED: Final = """
INSERT INTO tallies (minute, tenant, provider, handler, outcome, bucket, count, seconds)
SELECT date_trunc('minute', now()) - ago * interval '1 minute', 'tenant-' || n * 17 % 10000, provider, handler, outcome,
       4, 1, 0.07
FROM generate_series(0, 119) AS ago, generate_series(ago, ago + 249) AS n, LATERAL (
    VALUES ('moveris', '', 'stored'), ('', 'big.handler_' || n % 10, 'succeeded')
) AS counted(provider, handler, outcome);
INSERT INTO tallies_hourly (hour, tenant, provider, handler, outcome, bucket, count, seconds)
SELECT date_trunc('hour', now()) - ago * interval '1 hour', 'tenant-' || n, provider, handler, outcome, 4, 10, 0.7
FROM generate_series(3, 191) AS ago, generate_series(0, 9999) AS n, LATERAL (
    VALUES ('moveris', '', 'stored'), ('', 'big.handler_' || n % 10, 'succeeded')
) AS counted(provider, handler, outcome);
INSERT INTO activity (span, at, handler, outcome, bucket, count)
SELECT span, date_trunc(span, now()) - ago * ('1 ' || span)::interval, handler, outcome, bucket, 100
FROM (VALUES ('minute', 119), ('hour', 191)) AS spans(span, most), generate_series(0, most) AS ago, LATERAL (
    SELECT '' AS handler, outcome FROM unnest('{stored,duplicate,rejected}'::text[]) AS outcome
    UNION ALL
    SELECT 'big.handler_' || n, outcome
    FROM generate_series(0, 9) AS n, unnest('{succeeded,retried,dead}'::text[]) AS outcome
) AS counted, generate_series(2, 8) AS bucket;
"""


@contextmanager
def stand_on_big(folder: Path | None, *, scale: float = 1.0) -> Iterator[Place]:
    """Yield the big installation on servers of its own, with an empty Redis; make it first unless `folder` has it.

    Args:
        folder: where the data are kept; None for a temporary one.
        scale: of all its numbers of events and deliveries.
    """
    home = folder or Path(tempfile.mkdtemp(prefix="pipeline-bench-", dir=DISK))
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o755)
    try:
        if not (home / "complete").exists():
            began = time.monotonic()
            with _server(home, *_IN_A_HURRY) as place:
                _make(place, scale)
                size = place.query("SELECT pg_database_size(current_database()) AS size")["size"]
            (home / "complete").touch()
            print(f"made in {time.monotonic() - began:.0f} s, {size / 1e9:.1f} GB", flush=True)
        with _server(home) as place:
            _prepare(place)
            yield place
    finally:
        if folder is None:
            shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _server(home: Path, *options: str) -> Iterator[Place]:
    postgres = prepare_postgres(home, port=free_port(), password="bench", options=options)
    shutil.rmtree(home / "valkey", ignore_errors=True)
    valkey = prepare_valkey(home, port=free_port(), password="bench", maxmemory="2gb")
    key = home / "key"
    if not key.exists():
        key.write_text(Fernet.generate_key().decode())
    with run_server(postgres, home), run_server(valkey, home), redis.Redis.from_url(valkey.url) as client:
        yield Place(
            home=home,
            database_url=postgres.url.removesuffix("/postgres") + "/big",
            redis_url=valkey.url,
            redis=client,
            secrets_key=key.read_text(),
        )


def _make(place: Place, scale: float) -> None:
    with psycopg.connect(place.database_url.removesuffix("/big") + "/postgres", autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS big")
        admin.execute("CREATE DATABASE big")
    today = datetime.now(UTC).date()
    ciphertext = Cipher([place.secrets_key]).encrypt(SECRET)
    with place.connect() as connection:
        migrate(connection)
        ensure_partitions(connection, today - timedelta(days=DAYS), days_ahead=DAYS + 7)
        names = {"tenants": sql.Literal(TENANTS), "secret": sql.Literal(ciphertext)}
        connection.execute(sql.SQL(_REGISTRY).format(**names))
    count = int(EVENTS * scale) // DAYS
    with ThreadPoolExecutor(_MAKERS) as makers:
        for _ in makers.map(lambda ago: _make_day(place, count, today - timedelta(days=ago)), range(1, DAYS + 1)):
            pass
    with place.connect() as connection:
        connection.execute(_OPEN, {"open": int(OPEN * scale)})
        connection.execute(_OPERATED)
        connection.execute(_COUNTED)
        connection.execute("VACUUM ANALYZE")  # all of it: while the days were made, one kept the others' rows from it


def _make_day(place: Place, count: int, day: date) -> None:
    names = {
        name: sql.Identifier(partition_name(name, day))
        for name in ("events", "deliveries_done", "attempts", "arrivals")
    }
    values = {"day": day, "count": count, "salt": str(day), "tenants": TENANTS}
    with place.connect() as connection:
        connection.execute("SET synchronous_commit = off")
        for statement in (_EVENTS, _DONE, _ATTEMPTS, _ARRIVALS):
            connection.execute(sql.SQL(statement).format(**names), values)


def _prepare(place: Place) -> None:
    """Follow this tree's migrations, and let the live tenants' endpoints be known."""
    with place.connect() as connection:
        migrate(connection)
        ensure_partitions(connection)
        if not connection.execute("SELECT name FROM tenants WHERE name = %s", [LIVE[0]]).fetchone():
            ciphertext = Cipher([place.secrets_key]).encrypt(SECRET)
            for name in LIVE:
                tenants.add_tenant(connection, name)
                tenants.add_endpoint(
                    connection, tenant=name, provider="moveris", scheme="moveris", label="a", ciphertext=ciphertext
                )
        connection.execute("CHECKPOINT")
        Publisher(place.redis, NAMES, environment="").publish(connection)
