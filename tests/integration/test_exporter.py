"""The exporter as Prometheus meets it: a process, its figures, what they cost, and what goes on without a server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from deploy.exporter.figures import FIGURES, Families, merge
from deploy.exporter.postgres_figures import HANDLERS, TENANTS, DueLanes, PostgresFigures
from deploy.exporter.source import Source, Sources
from shared.refusals import add_arguments
from shared.wire import NOTE_END
from tests.ingress_process import wait_for
from tests.integration import draining
from tests.integration.draining import post
from tests.integration.test_admission import plan_of
from tests.launching import free_port, spawn
from tests.names import NAMES
from workers.errors import Permanent
from workers.registration import Handler
from workers.store import figures, tallies
from workers.store.catalogue import announce
from workers.store.figures import Lane
from workers.store.identity import read_identity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.conftest import AddDeliveries, Run
    from workers.store.connect import Connection

Samples = dict[tuple[str, ...], float]
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: apt-get install prometheus"
)


class Exporter:
    """One that runs."""

    def __init__(self, port: int, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.popen = popen
        self.log = log
        self.url = f"http://127.0.0.1:{port}/metrics"

    def text(self) -> str:
        return httpx.get(self.url).text

    def sample(self, name: str, *labels: str) -> float | None:
        """Return the value of one sample; None if it is not there."""
        return parse(self.text()).get((name, *labels))


def parse(text: str) -> Samples:
    """Return every sample by its name and the values of its labels, in the order of the names of labels."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@contextmanager
def run_exporter(folder: Path, **environ: str) -> Iterator[Exporter]:
    port, log = free_port(), folder / "exporter.log"
    given = {
        **os.environ,
        "HEARTBEAT_DIR": str(folder),
        "EXPORTER_PORT": str(port),
        "EXPORTER_SECONDS": "0.2",
        **environ,
    }
    popen = spawn([sys.executable, "-m", "deploy.exporter"], log=log, environ=given)
    exporter = Exporter(port, popen, log)
    try:
        wait_for(lambda: "metrics on port" in log.read_text(), seconds=30)
        looked = {("pipeline_redis_answers",), ("pipeline_postgres_answers",)}
        wait_for(lambda: looked <= set(parse(exporter.text())), seconds=30)
        yield exporter
    finally:
        popen.terminate()
        assert popen.wait(10) == 0, log.read_text()


@pytest.fixture
def figures_of(database_url: str) -> Iterator[PostgresFigures]:
    it = PostgresFigures(database_url, schema="")
    yield it
    it.close()


def read_postgres(figures_of: PostgresFigures) -> Samples:
    families = Families()
    figures_of.read(families)
    return parse(render(families))


def render(families: Families) -> str:
    registry = CollectorRegistry()
    source = Source("postgres", lambda _: None, away=[], every_seconds=1.0)
    source.families = families
    registry.register(Sources([source]))
    return generate_latest(registry).decode()


@pytest.fixture
def busy(client: Redis, connection: Connection, add_deliveries: AddDeliveries, run: Run) -> None:
    """Something of everything: stored, duplicate, rejected, succeeded, retried, dead, lost; waiting in every state."""

    def function(event: object, delivery: Any) -> None:
        if delivery.event_id == ids[1]:
            raise ValueError("again")
        if delivery.event_id == ids[2]:
            raise Permanent("no")

    for body in (b'{"type":"it"}', b'{"type":"it"}', b"no JSON"):
        post(client, body)
    draining.run(client, connection, catalogue=draining.nobody, identity=read_identity(connection, ""))
    ids = add_deliveries(3)
    run(ids, function)
    add_deliveries(2, tenant="globex")
    tallies.roll_up(connection)
    post(client)
    client.rpush(NAMES.handlers_queue, "x", "y")
    client.hset(NAMES.registry, "version", 7)
    client.eval(*add_arguments(NAMES.refusals, {("moveris", "acme", "invalid_signature"): 3}))
    connection.execute("INSERT INTO tenants (name) VALUES ('acme')")
    connection.execute("INSERT INTO endpoints (tenant, provider, scheme) VALUES ('acme', 'in-house', '\"hmac\"')")
    connection.execute("UPDATE endpoint_activity SET usual_per_hour = 60, last_at = now() - interval '20 min'")
    for task in ("drain", "sweep", "tick", "keep_days"):
        client.eval(NOTE_END, 1, NAMES.tasks_ended, task)


def test_everything_on_the_page_is_served_and_nothing_else(
    busy: None, redis_url: str, database_url: str, tmp_path: Path
) -> None:
    del busy
    with run_exporter(tmp_path, REDIS_URL=redis_url, DATABASE_URL=database_url) as exporter:
        families = {it.name: it for it in text_string_to_metric_families(exporter.text())}
        samples = parse(exporter.text())
    ours = {name: it for name, it in families.items() if not name.startswith("process_")}
    assert set(ours) == {name.removesuffix("_total") for name in FIGURES}
    for figure in FIGURES.values():
        family = ours[figure.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (figure.type, figure.about)
        labels = {frozenset(sample.labels) - {"le"} for sample in family.samples}
        assert labels == {frozenset(figure.labels)}, figure.name
    expected = {
        ("pipeline_events_total", "stored"): 1,
        ("pipeline_events_total", "duplicate"): 1,
        ("pipeline_events_total", "rejected"): 1,
        ("pipeline_attempts_total", "acme.run", "succeeded"): 1,
        ("pipeline_attempts_total", "acme.run", "retried"): 1,
        ("pipeline_attempts_total", "acme.run", "dead"): 1,
        ("pipeline_attempts_total", "acme.run", "cancelled"): 0,
        ("pipeline_leases_expired_total", "acme.run"): 0,
        ("pipeline_handled_seconds_count", "acme.run"): 2,
        ("pipeline_attempt_seconds_count", "acme.run"): 3,
        ("pipeline_stored_seconds_count",): 2,
        ("pipeline_deliveries", "due"): 2,
        ("pipeline_deliveries", "retrying"): 1,
        ("pipeline_tenant_due_deliveries", "globex"): 2,
        ("pipeline_dead_deliveries",): 1,
        ("pipeline_rejected_events",): 1,
        ("pipeline_open_incidents",): 0,
        ("pipeline_paused", "tenant"): 0,
        ("pipeline_paused", "handler"): 0,
        ("pipeline_paused", "tenant_handler"): 0,
        ("pipeline_paused_seconds",): 0,
        ("pipeline_inbox_entries", "inbox"): 1,
        ("pipeline_inbox_entries", "overflow"): 0,
        ("pipeline_queue_messages", "handlers"): 2,
        ("pipeline_registry_version", "redis"): 7,
        ("pipeline_redis_durable",): 1,
        ("pipeline_refused_requests", "invalid_signature", "moveris", "acme"): 3,
        ("pipeline_refused_seconds", "invalid_signature", "moveris", "acme"): 0,
    }
    assert {name: samples.get(name) for name in expected} == expected
    assert samples["pipeline_endpoint_overdue_seconds", "in-house", "acme"] == pytest.approx(600, abs=60)
    assert 0 <= samples["pipeline_inbox_oldest_seconds", "inbox"] < 60
    assert 0 <= samples["pipeline_task_age_seconds", "sweep"] < 60


@needs_promtool
def test_promtool_finds_nothing_wrong(busy: None, redis_url: str, database_url: str, tmp_path: Path) -> None:
    del busy
    with run_exporter(tmp_path, REDIS_URL=redis_url, DATABASE_URL=database_url) as exporter:
        text = exporter.text()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_scrapes_between_two_looks_ask_no_server(redis_url: str, database_url: str, tmp_path: Path) -> None:
    with (
        Redis.from_url(redis_url) as redis,
        run_exporter(tmp_path, REDIS_URL=redis_url, DATABASE_URL=database_url, EXPORTER_SECONDS="3600") as exporter,
    ):
        redis.config_resetstat()
        with psycopg.connect(database_url, autocommit=True) as own:
            asked = "SELECT query_start FROM pg_stat_activity WHERE application_name = 'pipeline exporter'"
            before = own.execute(asked).fetchall()
            for _ in range(50):
                exporter.text()
            assert own.execute(asked).fetchall() == before
        assert len(before) == 1
        assert "cmdstat_time" not in redis.info("commandstats")


def test_with_redis_away_the_figures_of_postgres_go_on_and_those_of_redis_are_missing(
    database_url: str, tmp_path: Path
) -> None:
    with run_exporter(tmp_path, REDIS_URL=f"redis://127.0.0.1:{free_port()}/0", DATABASE_URL=database_url) as exporter:
        samples = parse(exporter.text())
        assert "redis does not answer" in exporter.log.read_text()
    assert samples["pipeline_redis_answers",] == 0
    assert samples["pipeline_postgres_answers",] == 1
    assert samples["pipeline_deliveries", "due"] == 0
    assert not [name for name, *_ in samples if name.startswith("pipeline_inbox")]


def test_a_postgres_that_is_away_is_met_again(
    connection: Connection, redis_url: str, database_url: str, tmp_path: Path
) -> None:
    refuse = "ALTER DATABASE {} ALLOW_CONNECTIONS {}"
    name = connection.info.dbname
    with run_exporter(tmp_path, REDIS_URL=redis_url, DATABASE_URL=database_url) as exporter:
        with psycopg.connect(database_url.replace(name, "postgres"), autocommit=True) as admin:
            admin.execute(refuse.format(name, False))
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            wait_for(lambda: exporter.sample("pipeline_postgres_answers") == 0, seconds=20)
            assert exporter.sample("pipeline_inbox_entries", "inbox") == 0
            admin.execute(refuse.format(name, True))
        wait_for(lambda: exporter.sample("pipeline_deliveries", "due") == 0, seconds=20)


def test_a_read_that_waits_too_long_is_left_out_and_counted(figures_of: PostgresFigures, database_url: str) -> None:
    with psycopg.connect(database_url) as other:
        other.execute("LOCK TABLE totals")
        samples = read_postgres(figures_of)
    assert samples["pipeline_late_reads", "postgres"] == 1
    assert samples["pipeline_partitions_ahead",] == -1
    assert not [name for name, *_ in samples if name.startswith("pipeline_events")]
    assert read_postgres(figures_of)["pipeline_late_reads", "postgres"] == 0


def test_a_database_that_was_not_migrated_says_so(redis_url: str, database_url: str, tmp_path: Path) -> None:
    with psycopg.connect(database_url, autocommit=True) as own:
        own.execute("DROP TABLE totals")
    with run_exporter(tmp_path, REDIS_URL=redis_url, DATABASE_URL=database_url) as exporter:
        assert exporter.sample("pipeline_postgres_answers") == 0
        assert "postgres does not answer: relation" in exporter.log.read_text()


def test_a_port_in_use_is_refused_with_one_line(redis_url: str, database_url: str, tmp_path: Path) -> None:
    with run_exporter(tmp_path, REDIS_URL=redis_url, DATABASE_URL=database_url) as exporter:
        port = re.search(r"metrics on port (\d+)", exporter.log.read_text())
        assert port is not None
        environ = {**os.environ, "REDIS_URL": redis_url, "DATABASE_URL": database_url, "EXPORTER_PORT": port[1]}
        command = [sys.executable, "-m", "deploy.exporter"]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr == (
        f"exporter: cannot listen on 127.0.0.1 port {port[1]}: Address already in use; stop what uses it, or set "
        "EXPORTER_PORT\n"
    )


def test_a_redis_of_another_environment_is_refused_with_one_line(
    client: Redis, connection: Connection, redis_url: str, database_url: str
) -> None:
    client.set(NAMES.identity, read_identity(connection, "production"))
    own = {"REDIS_URL": redis_url, "DATABASE_URL": database_url, "PIPELINE_ENVIRONMENT": "staging"}
    command = [sys.executable, "-m", "deploy.exporter"]
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("exporter: Redis belongs to production ")
    assert "and this is staging " in line


def test_a_redis_that_becomes_anothers_is_no_longer_shown_until_it_is_ours_again(
    client: Redis, connection: Connection, redis_url: str, database_url: str, tmp_path: Path
) -> None:
    with run_exporter(tmp_path, REDIS_URL=redis_url, DATABASE_URL=database_url) as exporter:
        assert exporter.sample("pipeline_redis_answers") == 1
        assert client.get(NAMES.identity) is None, "it leaves none"
        client.set(NAMES.identity, "production 1/2/3")
        wait_for(lambda: exporter.sample("pipeline_redis_answers") == 0, seconds=20)
        assert exporter.sample("pipeline_inbox_entries", "inbox") is None
        assert exporter.sample("pipeline_postgres_answers") == 1
        client.set(NAMES.identity, read_identity(connection, ""))
        wait_for(lambda: exporter.sample("pipeline_inbox_entries", "inbox") == 0, seconds=20)
        assert exporter.log.read_text().count("Redis belongs to production 1/2/3, and this is - ") == 1


def test_ten_thousand_tenants_and_handlers_add_a_bounded_number_of_series(
    connection: Connection, figures_of: PostgresFigures
) -> None:
    connection.execute(
        "INSERT INTO deliveries (event_id, handler, tenant, due_at)"
        " SELECT uuid_at(now() + n * interval '1 ms'), 'h.one', 't' || n, now() - n * interval '1 s'"
        " FROM generate_series(1, 10000) AS n"
    )
    connection.execute(
        "INSERT INTO tallies_new (tenant, handler, outcome, seconds, waits)"
        " SELECT 'acme', 'h.' || n, 'succeeded', '{1}', '{1}' FROM generate_series(1, 10000) AS n"
    )
    tallies.roll_up(connection)
    samples = read_postgres(figures_of)
    shown = {labels[0]: value for (name, *labels), value in samples.items() if name == "pipeline_tenant_oldest_seconds"}
    assert sorted(shown) == sorted(["(others)", *(f"t{number}" for number in range(10000, 10000 - TENANTS, -1))])
    assert shown["(others)"] == pytest.approx(10000 - TENANTS, abs=60)
    assert samples["pipeline_tenants_waiting",] == 10_000
    assert samples["pipeline_attempts_total", "(others)", "succeeded"] == 10_000 - HANDLERS
    assert len(samples) < HANDLERS * 45


def test_a_handler_that_was_only_announced_has_zeros_so_that_its_first_dead_delivery_is_an_increase(
    connection: Connection, figures_of: PostgresFigures
) -> None:
    announce(connection, [Handler(name=f"h.{n}", function=print) for n in range(HANDLERS + 5)], code_version="1")
    samples = read_postgres(figures_of)
    assert samples["pipeline_attempts_total", "h.0", "dead"] == 0
    shown = {labels[0] for (name, *labels) in samples if name == "pipeline_attempts_total"}
    assert len(shown) == HANDLERS


def test_lanes_beyond_one_look_are_seen_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "BOUND", 2)
    due = {"a": 5.0, "b": 4.0, "c": 3.0, "d": 2.0, "e": 1.0}
    lanes = DueLanes()

    def look() -> dict[str, float]:
        found = [Lane(tenant=it, handler="h", due_at=at) for it, at in due.items() if (it, "h") > lanes.after]
        lanes.take(found[:2])
        return lanes.oldest()

    assert look() == {"a": 5.0, "b": 4.0}
    assert look() == {"a": 5.0, "b": 4.0, "c": 3.0, "d": 2.0}
    assert look() == due
    del due["a"], due["d"]
    assert look() == {"b": 4.0, "c": 3.0, "d": 2.0, "e": 1.0}
    assert look() == {"b": 4.0, "c": 3.0, "e": 1.0}


@pytest.mark.parametrize(("tenants", "each"), [(1, 200_000), (10_000, 2)], ids=["a long lane", "many tenants"])
def test_what_it_reads_follows_indexes_whatever_waits(connection: Connection, tenants: int, each: int) -> None:
    connection.execute("ALTER TABLE deliveries SET (autovacuum_enabled = false)")  # no statistics until we say so
    connection.execute(
        "INSERT INTO deliveries (event_id, handler, tenant)"
        " SELECT uuid_at(now() + (t * 10 + each) * interval '1 ms'), 'h.one', 't' || lpad(t::text, 5, '0')"
        " FROM generate_series(1, %s) AS t, generate_series(1, %s) AS each",
        [tenants, each],
    )
    connection.execute(
        "UPDATE deliveries SET ready = false, due_at = now()"
        " WHERE tenant < 't00010' AND event_id < uuid_at(now() + interval '20 s')"
    )
    figures.begin_look(connection, seconds=60)
    for _ in range(2):
        for query, parameters in (
            ("open_work", {}),
            ("due_lanes", {"tenant": "", "handler": ""}),
            ("count_due", {"tenants": ["t00001"]}),
            ("count_kept", {}),
            ("open_by_handler", {"runnable": ["h.one"]}),
        ):
            plan = plan_of(connection, query, parameters, queries=figures._QUERIES)
            assert not re.search(r"Seq Scan on (deliveries|events)\b", plan), plan
            assert max(map(float, re.findall(r"actual time=\S+ rows=([\d.]+)", plan))) <= figures.BOUND, plan
        connection.execute("ANALYZE deliveries")


def test_a_figure_of_two_sources_is_one_family() -> None:
    one, other = Families(), Families()
    one.add("pipeline_registry_version", 1, "redis")
    other.add("pipeline_registry_version", 2, "postgres")
    (family,) = merge([one, other])
    assert [(it.labels, it.value) for it in family.samples] == [({"place": "redis"}, 1), ({"place": "postgres"}, 2)]
