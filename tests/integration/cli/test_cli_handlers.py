"""`pipeline handlers`, as a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.integration.cli.conftest import Pipeline

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
