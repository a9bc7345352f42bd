"""`pipeline incidents` and `pipeline alerts`, as processes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.integration.test_incidents import die, look, reject
from tests.receivers import http_receiver, smtp_receiver

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.cli.conftest import Pipeline
    from workers.store.connect import Connection

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_an_incident_is_listed_shown_and_replayed_alone(pipeline: Pipeline, connection: Connection) -> None:
    die(connection, 3)
    die(connection, 2, tenant="globex")
    die(connection, error="CRMError: HTTP 503 after {} ms")
    look(connection)
    connection.execute(
        "INSERT INTO attempts (event_id, handler, fence, attempt, error, traceback)"
        " SELECT samples[1], subject, 3, 3, 'LookupError: no user 1', 'Traceback: here' FROM incidents WHERE count = 5"
    )
    listed = pipeline.json("incidents", "list", "--handler", "acme.grant", "--tenant", "globex")
    assert [(it["cause"], it["count"], it["tenants"]) for it in listed] == [("LookupError: no user <n>", 5, 2)]
    number = str(listed[0]["id"])
    shown = pipeline("incidents", "show", number).text
    assert "tenants    acme (3), globex (2)" in shown
    assert "Traceback: here" in shown
    assert f"pipeline incidents replay {number}" in shown
    assert "5 deliveries would be put back" in pipeline("incidents", "replay", number, "--dry-run").text
    (later,) = die(connection)  # in the last second
    assert "6 deliveries put back" in pipeline("incidents", "replay", number, "--reason", "it is mended").text
    assert connection.execute("SELECT FROM deliveries WHERE event_id = %s", [later]).fetchall()
    (left,) = connection.execute("SELECT last_error FROM deliveries_done").fetchall()
    assert left["last_error"].startswith("CRMError")
    (entry,) = pipeline.json("audit", "list", number)
    assert (entry["what"], entry["why"]) == ("incident replayed", "it is mended")
    (job,) = pipeline.json("jobs", "list")
    assert (job["filter"]["incident"], job["changed"]) == (int(number), 6)


def test_an_incident_is_muted_and_resolved_by_a_person(pipeline: Pipeline, connection: Connection) -> None:
    die(connection)
    look(connection)
    assert "incident 1 is muted until" in pipeline("incidents", "mute", "1", "--for", "4h").text
    assert "muted until" in pipeline("incidents", "show", "1").text
    assert "is told of again" in pipeline("incidents", "mute", "1", "--undo").text
    assert "incident 1 is resolved" in pipeline("incidents", "resolve", "1", "--reason", "mended").text
    assert "was resolved already" in pipeline("incidents", "resolve", "1").text
    assert pipeline.json("incidents", "list") == []
    (it,) = pipeline.json("incidents", "list", "--state", "all")
    assert it["state"] == "resolved"
    assert it["resolved_by"]
    assert "there is no incident 2" in pipeline("incidents", "show", "2", status=1).err


def test_rejected_events_of_an_incident_are_parsed_again_and_refusals_cannot_be(
    pipeline: Pipeline, connection: Connection
) -> None:
    connection.execute("UPDATE incident_progress SET stored_at = now() - interval '1 minute'")
    reject(connection)
    reject(connection, provider="github")
    look(connection)
    listed = {it["subject"]: str(it["id"]) for it in pipeline.json("incidents", "list")}
    (row,) = pipeline.json("incidents", "replay", listed["moveris"], "--dry-run")
    assert row["outcome"] == "rejected"
    connection.execute("UPDATE incidents SET kind = 'refused', subject = 'acme/github' WHERE subject = 'github'")
    assert "must send them again" in pipeline("incidents", "replay", listed["github"], status=1).err


def test_channels_are_listed_and_tested(pipeline: Pipeline, tmp_path: Path) -> None:
    assert "ALERTS is not set" in pipeline("alerts", "list", status=1).err
    path = tmp_path / "alerts.toml"
    with http_receiver() as http, smtp_receiver() as smtp, http_receiver(answers=[403]) as refusing:
        path.write_text(
            f'[[channel]]\nname = "operations"\ntype = "webhook"\nurl = "{http.url}"\nsecret = "{SECRET}"\n'
            f'[[channel]]\nname = "mail"\ntype = "email"\nhost = "127.0.0.1"\nport = {smtp.port}\nsecurity = "none"\n'
            'from = "a@example.com"\nto = ["b@example.com"]\ntenants = ["acme"]\n'
            f'[[channel]]\nname = "chat"\ntype = "slack"\nurl = "{refusing.url}"\n'
        )
        listed = pipeline("alerts", "list", ALERTS=str(path))
        assert "key=1" not in listed.text
        assert SECRET not in listed.text
        assert "b@example.com" in listed.text
        tested = pipeline("alerts", "test", "operations", "mail", ALERTS=str(path))
        assert tested.text.count("yes") == 2
        assert json.loads(http.posts[0][1])["type"] == "incident.test"
        assert smtp.mails[0][2]["Subject"] == "Test: alerts of the webhook pipeline arrive here"
        failed = pipeline("alerts", "test", "chat", status=1, ALERTS=str(path))
        assert "the receiver answers 403" in failed.text
        assert "no channel is named 'pager'" in pipeline("alerts", "test", "pager", status=1, ALERTS=str(path)).err
    path.write_text("[[channel")
    assert "is no TOML" in pipeline("alerts", "list", status=1, ALERTS=str(path)).err
