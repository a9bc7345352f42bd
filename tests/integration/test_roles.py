"""Three roles with exactly the rights that `pipeline grants` prints: what each can do, and what it cannot."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest

from shared.envelope import new_event_id
from tests.roles import Roles, parted_roles
from workers.dispatch.handler_loop import HandlerLoop
from workers.dispatch.running import MessageRun
from workers.registration import Handler
from workers.store.connect import Connection, PostgresConnection, UnfitDatabaseError, connect
from workers.store.grants import APPEND_ONLY, FUNCTIONS, READ_ONLY, TABLES
from workers.store.migrate import migrate
from workers.store.partitions import drop_expired, ensure_partitions, list_missing
from workers.store.server import may_make_days, missing_rights
from workers.store.session import HandlerSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deploy.local.service import Server
    from workers.dispatch.delivery import Delivery

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module", params=["", "pipeline"], ids=["public", "schema of its own"])
def roles(postgres_server: Server, request: pytest.FixtureRequest) -> Iterator[Roles]:
    with parted_roles(postgres_server.url, schema=request.param) as it:
        with psycopg.connect(it.handlers, autocommit=True) as team:
            team.execute("CREATE TABLE team.effects (event_id uuid, by_role text DEFAULT current_user)")
        yield it


@pytest.fixture
def owner(roles: Roles) -> Iterator[Connection]:
    """The owner, with nothing left of the test before."""
    with connect(roles.owner, name="owner", schema=roles.schema) as it:
        it.execute("DELETE FROM deliveries; DELETE FROM deliveries_done; DELETE FROM attempts; DELETE FROM events")
        yield it


@pytest.fixture
def application(roles: Roles) -> Iterator[Connection]:
    with connect(roles.application, name="application", schema=roles.schema) as it:
        yield it


@pytest.fixture
def team(roles: Roles) -> Iterator[psycopg.Connection]:
    with psycopg.connect(roles.handlers, autocommit=True) as it:
        it.execute("TRUNCATE team.effects")
        yield it


def add_deliveries(application: Connection, count: int, *, serial: str | None = None) -> list[uuid.UUID]:
    """Store events with a queued delivery each."""
    ids = sorted(new_event_id(datetime.now(UTC)) for _ in range(count))
    application.execute(
        "INSERT INTO events (id, provider, tenant, type, received_at, headers, body, secret_label, fingerprint, state)"
        " SELECT id, 'other', 'acme', 'thing', now(), '{}', '{}', 'first', uuid_send(id), 'accepted'"
        " FROM unnest(%s::uuid[]) AS id",
        [ids],
    )
    application.execute(
        "INSERT INTO deliveries (event_id, handler, tenant, state, ready, lease_until, serial)"
        " SELECT id, 'acme.run', 'acme', 'queued', false, now() + interval '1 min', %s FROM unnest(%s::uuid[]) AS id",
        [serial, ids],
    )
    return ids


def run(roles: Roles, ids: list[uuid.UUID], function: Callable[..., object]) -> MessageRun:
    """Run deliveries as a worker does: its own connection as the application, that of handlers as theirs."""
    postgres = PostgresConnection(roles.application, name="worker", schema=roles.schema)
    session, loop = HandlerSession(roles.handlers, schema=roles.schema), HandlerLoop()
    message = MessageRun(
        Handler(name="acme.run", function=function, schedule=(0.0,)),
        postgres=postgres,
        session=session,
        loop=loop,
        message_seconds=60.0,
        is_terminating=lambda: False,
    )
    try:
        message.run(ids)
    finally:
        postgres.close()
        session.discard()
        loop.prepare().close()
    return message


def states(application: Connection) -> list[str]:
    return [row["state"] for row in application.execute("SELECT state FROM all_deliveries ORDER BY event_id")]


def write(event: object, delivery: Delivery) -> None:
    delivery.connection.execute("INSERT INTO effects (event_id) VALUES (%s)", [delivery.event_id])


def test_what_a_handler_writes_with_its_own_role_commits_with_the_outcome(
    roles: Roles, owner: Connection, application: Connection, team: psycopg.Connection
) -> None:
    ids = add_deliveries(application, 4)

    def handle(event: object, delivery: Delivery) -> None:
        write(event, delivery)
        if delivery.event_id == ids[1]:
            raise ValueError("after the write")

    assert run(roles, ids, handle).succeeded == 3
    assert states(application) == ["succeeded", "pending", "succeeded", "succeeded"]
    effects = team.execute("SELECT event_id, by_role FROM team.effects ORDER BY event_id").fetchall()
    assert effects == [(event_id, roles.name("handlers")) for event_id in ids if event_id != ids[1]]
    (failed,) = application.execute("SELECT error FROM attempts")
    assert failed["error"] == "ValueError: after the write"


def test_a_late_success_of_the_handlers_role_changes_nothing(
    roles: Roles, owner: Connection, application: Connection, team: psycopg.Connection
) -> None:
    def handle(event: object, delivery: Delivery) -> None:
        write(event, delivery)
        application.execute("UPDATE deliveries SET fence = fence + 1, token = gen_random_uuid()")

    assert run(roles, add_deliveries(application, 1), handle).fenced == 1
    assert states(application) == ["running"]
    assert team.execute("SELECT FROM team.effects").fetchall() == []


@pytest.mark.parametrize("token", [None, uuid.UUID(int=0)], ids=["none", "guessed"])
def test_a_handler_cannot_finish_the_delivery_of_another(
    roles: Roles, owner: Connection, application: Connection, team: psycopg.Connection, token: uuid.UUID | None
) -> None:
    ids = add_deliveries(application, 2)
    prefix = f"{roles.schema}." if roles.schema else ""
    seen = []

    def handle(event: object, delivery: Delivery) -> None:
        if delivery.event_id == ids[0]:
            mark = f"{ids[1]}/1"  # what the other's own transaction has
            delivery.connection.execute("SELECT set_config('pipeline.delivery', %s, true)", [mark])
            with pytest.raises(psycopg.errors.NoDataFound) as info, delivery.connection.transaction():
                delivery.connection.execute(
                    f"SELECT {prefix}record_success(%s, 'acme.run', 1, %s, %s, 0)", [ids[1], token, mark]
                )
            seen.append(str(info.value))
        raise ValueError("enough")

    run(roles, ids, handle)
    assert len(seen) == 1
    assert states(application) == ["pending", "pending"]


def test_the_role_of_handlers_can_call_one_function_and_do_nothing_else(
    roles: Roles, owner: Connection, team: psycopg.Connection
) -> None:
    schema = roles.schema or "public"
    tables = "SELECT c.oid::regclass::text FROM pg_class AS c WHERE c.relnamespace = %s::regnamespace AND relkind = ANY"
    may = "has_table_privilege(c.oid, 'SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER')"
    assert len(team.execute(f"{tables} ('{{r,p,v}}')", [schema]).fetchall()) > len(TABLES)
    assert team.execute(f"{tables} ('{{r,p,v,S}}') AND {may}", [schema]).fetchall() == []
    functions = "SELECT proname FROM pg_proc WHERE pronamespace = %s::regnamespace"
    may_call = team.execute(f"{functions} AND has_function_privilege(oid, 'EXECUTE')", [schema]).fetchall()
    assert may_call == [("record_success",)]
    assert team.execute("SELECT has_schema_privilege(%s, 'CREATE')", [schema]).fetchall() == [(False,)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        team.execute(f"SELECT FROM {schema}.deliveries")


def test_triggers_on_temporary_tables_of_a_handler_never_run_as_the_owner(
    roles: Roles, owner: Connection, application: Connection, team: psycopg.Connection
) -> None:
    """A temporary table hides one of the same name, unless a path says that temporary ones come last."""
    team.execute("GRANT INSERT ON team.effects TO PUBLIC; GRANT USAGE ON SCHEMA team TO PUBLIC")
    team.execute(
        "CREATE OR REPLACE FUNCTION team.note() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO team.effects DEFAULT VALUES; RETURN NULL; END $$"
    )
    first, second = add_deliveries(application, 2, serial="s1")
    application.execute(
        "UPDATE deliveries SET state = 'pending', lease_until = NULL, due_at = parked() WHERE event_id = %s", [second]
    )
    application.execute(
        "INSERT INTO lane_marks VALUES ('acme', 'acme.run', pg_current_xact_id()) ON CONFLICT DO NOTHING"
    )

    def handle(event: object, delivery: Delivery) -> None:
        for table in ("deliveries", "deliveries_done", "lane_marks"):
            delivery.connection.execute(
                f"CREATE TEMP TABLE {table} AS SELECT %s::uuid AS event_id, 'acme.run'::text AS handler,"
                " 1::bigint AS fence, NULL::uuid AS token, 'running'::text AS state, 'acme'::text AS tenant,"
                " '9'::xid8 AS low, '9999-12-30'::timestamptz AS due_at, true AS ready, 's1'::text AS serial",
                [delivery.event_id],
            )
            delivery.connection.execute(
                f"CREATE TRIGGER t AFTER INSERT OR UPDATE OR DELETE ON pg_temp.{table}"
                " FOR EACH STATEMENT EXECUTE FUNCTION team.note()"
            )
        delivery.connection.execute("SET search_path = pg_temp, team")

    assert run(roles, [first], handle).succeeded == 1
    assert team.execute("SELECT by_role FROM team.effects").fetchall() == []
    assert states(application) == ["succeeded", "pending"]
    (waiting,) = application.execute("SELECT ready FROM deliveries")
    assert waiting["ready"], "the next of the subject is due"


def test_the_owner_makes_and_drops_days_and_the_application_cannot(roles: Roles, owner: Connection) -> None:
    now = datetime.now(UTC)
    assert list_missing(owner) == [], "pipeline migrate has made them"
    far = now.date() + timedelta(days=7)
    made = ensure_partitions(owner, far)
    assert len(made) == 4 * 7
    assert set(made) <= set(drop_expired(owner, now + timedelta(days=60), retention_days=30, dedup_days=30))
    with (
        connect(roles.application, name="application", schema=roles.schema) as application,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match=f"belongs to the role {roles.name('owner')}"),
    ):
        ensure_partitions(application)
    ensure_partitions(owner)


def test_the_application_lacks_nothing_but_the_days(roles: Roles, owner: Connection, application: Connection) -> None:
    assert (missing_rights(application), may_make_days(application)) == ([], False)
    assert (missing_rights(owner), may_make_days(owner)) == ([], True)


def test_a_role_of_handlers_without_its_right_is_told_what_to_run_and_no_attempt_is_charged(
    roles: Roles, owner: Connection, application: Connection
) -> None:
    function, role = "record_success", roles.name("handlers")
    owner.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM {role}")
    try:
        with pytest.raises(UnfitDatabaseError, match=f"pipeline grants --handlers {role}"):
            run(roles, add_deliveries(application, 1), write)
    finally:
        owner.execute(f"GRANT EXECUTE ON FUNCTION {function} TO {role}")
    (row,) = application.execute("SELECT state, attempt FROM deliveries")
    assert row == {"state": "pending", "attempt": 0}


def test_a_migration_gives_the_roles_their_rights_on_what_it_makes(roles: Roles, owner: Connection) -> None:
    owner.execute("DELETE FROM migrations WHERE name = '0002_pre_bounded_tenants'; DROP INDEX tenants_bounded")
    owner.execute(f"REVOKE ALL ON receipts FROM {roles.name('application')}")
    owner.execute("GRANT EXECUTE ON FUNCTION parked() TO PUBLIC")
    assert migrate(owner) == ["0002_pre_bounded_tenants"]
    (row,) = owner.execute(
        "SELECT has_table_privilege(%s, 'receipts', 'INSERT') AS writes,"
        " has_function_privilege(%s, 'parked()', 'EXECUTE') AS parks",
        [roles.name("application"), roles.name("handlers")],
    )
    assert row == {"writes": True, "parks": False}


def test_the_rights_name_every_table_and_function(connection: Connection) -> None:
    tables = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v')"
        " AND NOT relispartition"
    )
    assert sorted(row["relname"] for row in tables) == sorted((*TABLES, *APPEND_ONLY, *READ_ONLY))
    functions = connection.execute("SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace")
    assert sorted(row["proname"] for row in functions) == sorted(FUNCTIONS)
