"""Deliveries are made by what handler workers have announced, whatever comes first."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.draining import count, post, run
from workers.announcer import log_announced
from workers.dispatch.admission import admit
from workers.registration import Handler
from workers.store import catalogue, deliveries, manual, pauses
from workers.store.catalogue import Catalogue, announce
from workers.store.connect import Connection, connect
from workers.store.manual import Selection

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from redis import Redis

    from tests.integration.conftest import AddDeliveries


def handler(name: str = "acme.run", **policy: Any) -> Handler:
    return Handler(name=name, function=print, **policy)


def say(connection: Connection, *handlers: Handler, live: Iterable[Handler] = (), version: str = "1") -> list[str]:
    """Announce handlers as a worker does, while workers with the `live` ones run; return which of them changed."""
    registrations = {(it.name, it.digest) for it in live}
    return announce(connection, handlers, code_version=version, live=registrations).changed


def made(connection: Connection) -> list[tuple[UUID, str]]:
    rows = connection.execute("SELECT event_id, handler FROM deliveries ORDER BY event_id, handler")
    return [(row["event_id"], row["handler"]) for row in rows]


def backfill(connection: Connection) -> None:
    while catalogue.backfill_next(connection):
        pass


def test_what_is_announced_later_is_followed_by_the_next_batch(client: Redis, connection: Connection) -> None:
    known = Catalogue()
    say(connection, handler(event="greeting"))
    first = post(client)
    run(client, connection, catalogue=known)
    say(connection, handler("acme.other", event="greet*"), handler("acme.none", event="parting"))
    second = post(client, b'{"type":"greeting","n":2}')
    run(client, connection, catalogue=known)
    assert made(connection) == [(first, "acme.run"), (second, "acme.other"), (second, "acme.run")]


def test_events_stored_before_the_first_announcement_get_their_deliveries_and_no_others_do(
    client: Redis, connection: Connection, add_deliveries: AddDeliveries
) -> None:
    (before,) = add_deliveries(1, handler="acme.by-hand")  # as a worker of an earlier version made it
    early = [post(client, b'{"type":"greeting","n":%d}' % number) for number in range(3)]
    post(client, b"no json")
    run(client, connection, catalogue=Catalogue())
    assert made(connection) == [(before, "acme.by-hand")]
    say(connection, handler(event="greeting"), handler("acme.other", event="parting"))
    say(connection, handler("acme.later", event="greeting"))
    backfill(connection)
    assert set(made(connection)) == {(before, "acme.by-hand"), *((it, "acme.run") for it in early)}
    backfill(connection)
    assert len(made(connection)) == 4


def test_a_handler_that_others_were_announced_before_is_told_to_have_no_earlier_events(
    connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    first = announce(connection, [handler()], code_version="1")
    log_announced(first)
    assert (first.changed, first.added, "backfill" in caplog.text) == (["acme.run"], [], False)
    second = announce(connection, [handler(timeout=3), handler("billing.run")], code_version="1")
    log_announced(second)
    assert (second.changed, second.added) == (["acme.run", "billing.run"], ["billing.run"])
    assert "`pipeline deliveries backfill billing.run --since 7d` makes those of before" in caplog.text
    assert announce(connection, [handler("billing.run")], code_version="1").added == []


def test_a_backfill_that_was_interrupted_goes_on_where_it_was(
    client: Redis, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manual, "_EVENTS_PER_PAGE", 2)
    early = [post(client, b'{"type":"greeting","n":%d}' % number) for number in range(5)]
    run(client, connection, catalogue=Catalogue())
    say(connection, handler())
    assert catalogue.backfill_next(connection)
    assert len(made(connection)) == 2
    (row,) = catalogue.list_registered(connection)
    assert row.backfills
    backfill(connection)
    assert made(connection) == [(it, "acme.run") for it in sorted(early)]
    (row,) = catalogue.list_registered(connection)
    assert not row.backfills


def test_a_batch_that_is_under_way_during_the_first_announcement_loses_nothing(
    client: Redis, connection: Connection, database_url: str
) -> None:
    """The announcement waits until the batch is committed; one that had begun to wait sees it."""
    ids = [post(client, b'{"type":"greeting","n":%d}' % number) for number in range(20)]
    over = threading.Event()

    def store() -> None:
        with connect(database_url, name="drain") as own:
            while not over.is_set():
                run(client, own, catalogue=Catalogue())

    threads = [threading.Thread(target=store) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(20, 400):
        ids.append(post(client, b'{"type":"greeting","n":%d}' % number))
        if number == 200:
            say(connection, handler())
    while client.xlen("inbox"):
        pass
    over.set()
    for thread in threads:
        thread.join()
    backfill(connection)
    assert count(connection, "events") == 400
    assert made(connection) == [(it, "acme.run") for it in sorted(ids)]


def test_a_batch_holds_the_first_announcement_up_until_it_is_committed(
    connection: Connection, database_url: str
) -> None:
    with connect(database_url, name="drain") as drain:
        with drain.transaction():
            drain.execute("SELECT pg_advisory_xact_lock_shared(hashtext('pipeline catalogue'))")
            announcing = threading.Thread(target=say, args=[connection, handler()])
            announcing.start()
            waiting = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while not drain.execute(waiting).fetchall():
                pass
            assert drain.execute("SELECT version FROM handler_catalogue").fetchall() == [{"version": 0}]
        announcing.join()
        assert drain.execute("SELECT version FROM handler_catalogue").fetchall() == [{"version": 1}]


def test_old_and_new_workers_side_by_side_do_not_take_turns(connection: Connection) -> None:
    old, new = handler(event="a"), handler(event="b")
    assert say(connection, old, version="1") == ["acme.run"]
    assert say(connection, new, live=[old], version="2") == ["acme.run"], "what is new is taken at once"
    for _ in range(2):
        assert say(connection, old, live=[old, new], version="1") == [], "a worker of the old version, started again"
        assert say(connection, new, live=[old, new], version="2") == []
    assert catalogue.read_registrations(connection)["acme.run"].event == "b"


def test_a_deployment_that_is_rolled_back_gets_its_registration_back_when_the_last_of_the_new_workers_is_gone(
    connection: Connection,
) -> None:
    old, new = handler(event="a"), handler(event="b")
    say(connection, old, version="1")
    say(connection, new, live=[old], version="2")
    assert announce(connection, [old], code_version="1", live={(it.name, it.digest) for it in (old, new)}).outdated
    assert say(connection, old, live=[old], version="1") == ["acme.run"]
    assert say(connection, new, live=[old, new], version="2") == [], "and the new one stays out while old ones live"
    assert say(connection, new, live=[new], version="2") == ["acme.run"]


def test_silence_unregisters_nothing(client: Redis, connection: Connection) -> None:
    say(connection, handler())
    connection.execute("UPDATE registered_handlers SET last_seen_at = now() - interval '3 days'")
    say(connection, handler("acme.other"))
    event_id = post(client)
    run(client, connection, catalogue=Catalogue())
    assert made(connection) == [(event_id, "acme.other"), (event_id, "acme.run")]


def test_a_removed_handler_gets_nothing_until_it_is_announced_again(client: Redis, connection: Connection) -> None:
    known = Catalogue()
    say(connection, handler())
    assert catalogue.remove(connection, "acme.run")
    assert not catalogue.remove(connection, "acme.run")
    post(client)
    run(client, connection, catalogue=known)
    say(connection, handler())
    backfill(connection)
    assert made(connection) == [], "that nobody was registered is not that nobody was heard yet"
    post(client, b'{"type":"greeting","n":2}')
    run(client, connection, catalogue=known)
    assert len(made(connection)) == 1


def test_serial_handlers_are_known_from_the_announcement(client: Redis, connection: Connection) -> None:
    say(connection, handler(serial_by="subject"), handler("acme.other"))
    serial = "SELECT handler FROM serial_handlers"
    assert connection.execute(serial).fetchall() == [{"handler": "acme.run"}]
    say(connection, handler(), live=())
    assert connection.execute(serial).fetchall() == []


# Names ---------------------------------------------------------------------------------------------------------------


def rename(connection: Connection, old: str, new: str) -> list[tuple[int, int]]:
    catalogue.rename(connection, old, new)
    return list(catalogue.rename_open(connection, old, new))


def test_a_handler_keeps_all_its_deliveries_have_been_through_under_another_name(
    client: Redis, connection: Connection, add_deliveries: AddDeliveries
) -> None:
    say(connection, handler(event="greeting", serial_by="subject"))
    connection.execute("INSERT INTO handler_limits (handler, max_in_flight) VALUES ('acme.run', 7)")
    pauses.pause(connection, handler="acme.run")
    ids = add_deliveries(4)
    connection.execute("UPDATE deliveries SET state = 'queued', ready = false, lease_until = now()")
    claimed, _ = deliveries.claim(connection, "acme.run", ids[:2], worker="one", lease=60.0)
    outcomes = [deliveries.Outcome(claimed=claimed[0], state=None, error="ValueError: no", retry_in=60.0)]
    deliveries.record(connection, "acme.run", outcomes)
    assert rename(connection, "acme.run", "acme.new") == [(3, 0)]
    rows = connection.execute(
        "SELECT event_id, handler, state, attempt, fence, ready FROM deliveries ORDER BY event_id"
    )
    found = [
        (row["event_id"], row["handler"], row["state"], row["attempt"], row["fence"], row["ready"]) for row in rows
    ]
    assert found == [
        (ids[0], "acme.new", "pending", 1, 1, False),
        (ids[1], "acme.run", "running", 0, 1, False),
        (ids[2], "acme.new", "pending", 0, 0, True),
        (ids[3], "acme.new", "pending", 0, 0, True),
    ]
    success = [deliveries.Outcome(claimed=claimed[1], state="succeeded")]
    assert deliveries.record(connection, "acme.run", success), "what runs ends under the name that it began with"
    assert [it.handler for it in pauses.list_pauses(connection)] == ["acme.new"]
    assert connection.execute("SELECT handler, max_in_flight FROM handler_limits").fetchall() == [
        {"handler": "acme.new", "max_in_flight": 7}
    ]
    event_id = post(client)
    run(client, connection, catalogue=Catalogue())
    assert (event_id, "acme.new") in made(connection)
    assert (event_id, "acme.run") not in made(connection)


def test_a_renamed_handler_stays_renamed_whatever_old_workers_announce(connection: Connection) -> None:
    say(connection, handler())
    catalogue.rename(connection, "acme.run", "acme.new")
    assert announce(connection, [handler()], code_version="1").renamed == ["acme.run"]
    assert list(catalogue.read_registrations(connection)) == ["acme.new"]
    say(connection, handler("acme.new", event="other"))
    assert catalogue.read_registrations(connection)["acme.new"].event == "other"
    assert catalogue.remove(connection, "acme.run")
    assert say(connection, handler()) == ["acme.run"]


def test_after_a_deployment_under_both_names_no_event_runs_twice_for_the_rename(
    client: Redis, connection: Connection
) -> None:
    say(connection, handler())
    alone = post(client)
    run(client, connection, catalogue=Catalogue())
    say(connection, handler("acme.new"))
    both = post(client, b'{"type":"greeting","n":2}')
    run(client, connection, catalogue=Catalogue())
    assert rename(connection, "acme.run", "acme.new") == [(1, 1)]
    assert made(connection) == [(alone, "acme.new"), (both, "acme.new")]
    (row,) = connection.execute("SELECT event_id, state, last_error FROM deliveries_done").fetchall()
    assert row == {"event_id": both, "state": "cancelled", "last_error": "renamed to acme.new"}


def test_a_backfill_counts_what_ran_under_the_former_name(
    connection: Connection, add_deliveries: AddDeliveries
) -> None:
    say(connection, handler())
    ids = add_deliveries(2)
    list(manual.cancel(connection, Selection(event_ids=ids[:1])))
    rename(connection, "acme.run", "acme.new")
    (now,) = connection.execute("SELECT now() - interval '1 h' AS since, now() + interval '1 h' AS until").fetchall()
    pages = list(manual.backfill(connection, handler="acme.new", provider=None, event=None, tenant=None, **now))
    assert [(page.events, page.made) for page in pages] == [(2, 0)]


def test_names_that_are_not_there_are_refused(connection: Connection) -> None:
    say(connection, handler(), handler("acme.other"))
    with pytest.raises(KeyError):
        catalogue.rename(connection, "acme.gone", "acme.new")
    catalogue.rename(connection, "acme.run", "acme.new")
    catalogue.rename(connection, "acme.run", "acme.new")  # once more, to move what has come back meanwhile
    with pytest.raises(KeyError):
        catalogue.rename(connection, "acme.other", "acme.run")
    with pytest.raises(KeyError):
        catalogue.rename(connection, "acme.run", "acme.third")


# Who may run it ------------------------------------------------------------------------------------------------------


def test_what_no_live_worker_runs_waits_and_keeps_nobody_from_being_admitted(
    connection: Connection, add_deliveries: AddDeliveries
) -> None:
    from tests.integration.test_admission import Sent  # noqa: PLC0415 - the tests of one module use another's queue

    add_deliveries(600, tenant="gone", handler="gone.run")
    (other,) = add_deliveries(1, handler="acme.run")
    queue = Sent(express=0)
    for _ in range(3):
        admit(connection, queue, slots=1, message_seconds=1.0, runnable={"acme.run"})
    assert [it.event_ids for it in queue.messages] == [[other]]
    assert admit(connection, queue, slots=1, message_seconds=1.0, runnable={"acme.run", "gone.run"}) > 0


def test_without_a_live_worker_nothing_is_admitted(connection: Connection, add_deliveries: AddDeliveries) -> None:
    from tests.integration.test_admission import Sent  # noqa: PLC0415 - the same

    add_deliveries(3)
    assert admit(connection, Sent(express=0), slots=0, express_slots=0, message_seconds=1.0) == 0
    assert admit(connection, Sent(express=0), slots=0, express_slots=1, message_seconds=1.0) == 3
