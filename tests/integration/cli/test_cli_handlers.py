"""`pipeline handlers`, as a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workers.registration import Handler
from workers.store.catalogue import announce

if TYPE_CHECKING:
    from tests.integration.cli.conftest import Pipeline
    from tests.integration.conftest import AddDeliveries
    from workers.store.connect import Connection

HANDLERS = '''
from __future__ import annotations
from typing import TYPE_CHECKING
from workers import GenericEvent, handler
from workers.events.moveris import VerificationCompleted
if TYPE_CHECKING:
    from workers import Delivery, Event

@handler("acme.grant", event="verification.completed", provider="moveris", tenant="acme", timeout=5, schedule=[1])
def grant(event: VerificationCompleted, delivery: Delivery) -> None:
    """Grant access to a live person.

    More of it.
    """

@handler("acme.any")
def take(event: Event, delivery: Delivery) -> None: ...

@handler("acme.untyped")
def untyped(event, delivery): ...
'''


def test_what_modules_would_register_is_shown_with_what_they_ask_for_and_what_they_are_given(
    pipeline: Pipeline,
) -> None:
    (pipeline.folder / "acme_listed.py").write_text(HANDLERS)
    any_event, grant, untyped = pipeline.json("handlers", "check", HANDLERS="acme_listed")
    assert (grant["handler"], grant["event"], grant["provider"]) == ("acme.grant", "verification.completed", "moveris")
    assert (grant["tenant"], grant["max_attempts"], grant["timeout"]) == ("acme", 2, 5.0)
    assert grant["about"] == "Grant access to a live person."
    assert any_event["given"] == untyped["given"] == "Event"
    told = pipeline("handlers", "check", HANDLERS="acme_listed").text
    assert "VerificationCompleted (session_id, timestamp, event, data)" in told


def test_announced_handlers_are_listed_with_what_they_ask_for_and_whether_a_worker_runs_them(
    pipeline: Pipeline, connection: Connection
) -> None:
    assert pipeline.json("handlers", "list") == []
    grant = Handler(name="acme.grant", function=print, event="verification.completed", tenant="acme", timeout=5)
    announce(connection, [grant, Handler(name="acme.any", function=print)], code_version="7")
    any_event, listed = pipeline.json("handlers", "list")
    assert (any_event["handler"], any_event["event"], any_event["tenant"]) == ("acme.any", "*", "*")
    assert (listed["handler"], listed["event"], listed["tenant"]) == ("acme.grant", "verification.completed", "acme")
    assert (listed["timeout"], listed["code_version"], listed["live"]) == (5.0, "7", "no")
    shown = pipeline("handlers", "list").text
    assert "acme.grant" in shown
    assert "verification.completed" in shown


def test_a_handler_is_renamed_with_its_open_deliveries(
    pipeline: Pipeline, connection: Connection, add_deliveries: AddDeliveries
) -> None:
    announce(connection, [Handler(name="acme.grant", function=print)], code_version="1")
    add_deliveries(3, handler="acme.grant")
    told = pipeline("handlers", "rename", "acme.grant", "acme.access", "--reason", "a better name").text
    assert "acme.grant is acme.access now, 3 open deliveries moved" in told
    assert {row["handler"] for row in pipeline.json("deliveries", "list")} == {"acme.access"}
    by_name = {row["handler"]: row for row in pipeline.json("handlers", "list")}
    assert by_name["acme.grant"]["renamed_to"] == "acme.access"
    assert by_name["acme.access"]["renamed_to"] is None
    (changed,) = pipeline.json("audit", "list", "acme.grant")
    assert (changed["what"], changed["why"]) == ("handlers renamed", "a better name")


def test_what_cannot_be_renamed_is_said_in_one_line(pipeline: Pipeline) -> None:
    (line,) = pipeline("handlers", "rename", "acme.grant", "acme.access", status=1).err.splitlines()
    assert "'acme.grant' is not announced" in line
    assert "pipeline handlers list" in line
