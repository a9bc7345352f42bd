"""`pipeline send` against a real ingress."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest

from deploy.cli.waiting import follow
from shared.envelope import decode
from tests.launching import free_port
from tests.names import NAMES
from workers.store.connect import connect
from workers.store.stats import Fate

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from shared.envelope import Envelope
    from tests.integration.cli.conftest import Pipeline
    from workers.store.connect import Connection


def entries(client: redis.Redis) -> list[tuple[bytes, dict[bytes, bytes]]]:
    found: Any = client.xrange(NAMES.inbox)
    return list(found)


def inbox(client: redis.Redis) -> list[dict[bytes, bytes]]:
    return [fields for _, fields in entries(client)]


def test_signed_events_of_fresh_sessions_are_acknowledged(
    ingress: Pipeline, redis_client: redis.Redis, tmp_path: Path
) -> None:
    ids_file = tmp_path / "ids"
    *answers, last = ingress.json("send", "acme", "--count", "20", "--rate", "400", "--ids-file", str(ids_file))
    assert [answer["status"] for answer in answers] == [200] * 20
    summary = last["summary"]
    assert (summary["sent"], summary["acknowledged"], summary["refused"]) == (20, 20, {})
    assert 0 < summary["p50_ms"] <= summary["p99_ms"] <= summary["max_ms"]
    assert summary["seconds"] >= 19 / 400
    envelopes = [decode(fields) for fields in inbox(redis_client)]
    sessions = {json.loads(envelope.body)["session_id"] for envelope in envelopes}
    assert len(sessions) == 20
    assert {envelope.secret_label for envelope in envelopes} == {"v1"}
    acknowledged = {UUID(answer["id"]) for answer in answers}
    assert {envelope.id for envelope in envelopes} == acknowledged
    assert {UUID(line) for line in ids_file.read_text().split()} == acknowledged


def test_a_person_sees_counts_and_times(ingress: Pipeline) -> None:
    one = ingress("send", "acme")
    assert "acknowledged 1 of 1" in one.text
    assert "pipeline events show" in one.text
    assert "p99" in ingress("send", "acme", "--count", "5", "--event", "verification.failed").text


def test_a_body_from_a_file_is_sent_byte_for_byte_each_time(
    ingress: Pipeline, redis_client: redis.Redis, tmp_path: Path
) -> None:
    body = b'{"not":\xff json,\r\n'
    (tmp_path / "body").write_bytes(body)
    ingress("send", "acme", "--body-file", "body", "--count", "3")
    assert [fields[b"body"] for fields in inbox(redis_client)] == [body] * 3


def test_an_expired_secret_is_refused_by_the_ingress_and_the_command_says_so(ingress: Pipeline) -> None:
    ingress("secrets", "add", "acme", "--label", "v2", "--secret-stdin", stdin=b"second")
    ingress("secrets", "expire", "acme", "v1")
    nothing_else = ingress("send", "acme", "--label", "nope", status=1)
    assert "pipeline secrets list acme" in nothing_else.err
    for _ in range(100):  # a change reaches the ingress within two seconds
        newest = ingress.json("send", "acme", status=None)
        if newest[0]["status"] == 200:
            break
    assert newest[0]["status"] == 200
    for _ in range(100):  # it may have seen the new secret, and not yet the end of the old one
        refused = ingress("send", "acme", "--label", "v1", "--count", "2", status=None)
        if refused.status == 1:
            break
    assert "refused      2: 401 invalid_signature" in refused.text


def test_an_ingress_that_is_away_is_told_with_status_1(acme: Pipeline) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    refused = acme("send", "acme", "--count", "3", "--url", away, status=1)
    assert "acknowledged 0 of 3" in refused.text
    assert "3: no answer connection_failed" in refused.text
    assert "Connection refused" in refused.text


def test_what_cannot_be_sent_is_refused_with_a_line(acme: Pipeline) -> None:
    for arguments, part in (
        (["acme"], "INGRESS_URL"),
        (["acme", "--url", "hooks.example.com"], "http://host:8000"),
        (["nobody", "--url", "http://127.0.0.1:1"], "pipeline endpoints add nobody"),
        (["acme", "--url", "http://127.0.0.1:1", "--provider", "other"], "no endpoint"),
    ):
        refused = acme("send", *arguments, status=1)
        assert part in refused.err
        assert len(refused.err.splitlines()) == 1


def test_waiting_is_given_up_when_nothing_changes(ingress: Pipeline) -> None:
    """No worker runs here: the events stay in the inbox."""
    *_, last = ingress.json("send", "acme", "--count", "2", "--wait", "--patience", "0.3", status=1)
    assert last["summary"]["fates"]["not_stored"] == 2
    assert (
        "not stored   1: not in Postgres so far"
        in ingress("send", "acme", "--wait", "--patience", "0.3", status=1).text
    )


def test_with_postgres_away_it_says_that_nothing_is_known_and_why(ingress: Pipeline, database_url: str) -> None:
    """The events may well be stored: nobody has looked."""
    ids = [uuid4() for _ in range(60)]
    away = f"postgresql://nobody@127.0.0.1:{free_port()}/x"
    (*_, seen) = follow(away, ids, patience=0.3)
    assert (seen.fates.total(), seen.unknown) == (0, 60)
    assert "Postgres cannot be reached" in seen.error
    (name,) = [part for part in database_url.rpartition("/")[2:] if part]
    with psycopg.connect(database_url.rpartition("/")[0] + "/postgres", autocommit=True) as admin:
        waiting = follow(database_url, ids, patience=1.0)
        assert next(waiting).fates == {Fate.NOT_STORED: 60}
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        (*_, seen) = waiting
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    assert (seen.fates.total(), seen.unknown) == (0, 60), "what was seen before the cut says nothing of now"


@pytest.mark.parametrize(("outcome", "status"), [("succeeded", 0), ("dead", 1)])
def test_waiting_ends_when_all_have_come_to_their_end_and_only_success_is_status_0(
    ingress: Pipeline, redis_client: redis.Redis, database_url: str, outcome: str, status: int
) -> None:
    over = threading.Event()

    def play_the_workers() -> None:
        with connect(database_url, name="test workers") as mine:
            while not over.wait(0.01):
                for stream_id, fields in entries(redis_client)[:2]:
                    finish(mine, decode(fields), outcome)
                    redis_client.xdel(NAMES.inbox, stream_id)

    with ThreadPoolExecutor(1) as pool:
        playing = pool.submit(play_the_workers)
        try:
            *_, last = ingress.json("send", "acme", "--count", "30", "--wait", status=status)
        finally:
            over.set()
        playing.result()
    fates = last["summary"]["fates"]
    assert fates == dict.fromkeys(fates, 0) | {"handled" if outcome == "succeeded" else "dead": 30}


def finish(connection: Connection, envelope: Envelope, outcome: str) -> None:
    """Store an event as if its one handler had come to this outcome."""
    with connection.transaction():
        connection.execute(
            "INSERT INTO events"
            " (id, provider, tenant, type, received_at, headers, body, secret_label, fingerprint, state)"
            " VALUES (%s, 'moveris', 'acme', 'any', now(), '{}', '', 'v1', '', 'accepted')",
            [envelope.id],
        )
        connection.execute(
            "INSERT INTO deliveries_done (event_id, handler, tenant, state, attempt, fence, last_error, created_at)"
            " VALUES (%s, 'acme.run', 'acme', %s, 1, 1, 'x', now())",
            [envelope.id, outcome],
        )
