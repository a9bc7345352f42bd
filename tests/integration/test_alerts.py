"""Who is told, what of, how often, and what receivers that are slow, fail or hang can hold up."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from standardwebhooks.webhooks import Webhook as Verifier

from tests.integration.test_incidents import die, look, pass_by, succeed
from tests.receivers import HttpReceiver, http_receiver, smtp_receiver, wait_for_posts
from workers.housekeeping import alert_content, alert_sending, alerting
from workers.housekeeping.alert_channels import Channel, Email, Slack, Webhook
from workers.housekeeping.alert_sending import SendError, send
from workers.housekeeping.alerting import Alerter, send_one
from workers.store import alerts
from workers.store.connect import PostgresConnection

if TYPE_CHECKING:
    from pathlib import Path

    from workers.store.connect import Connection

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
QUIET = 600.0
Make = Callable[..., Alerter]


@pytest.fixture
def make_alerter(database_url: str, tmp_path: Path) -> Make:
    """Return a function that makes what sends to channels of these texts."""

    def make(*channels: str) -> Alerter:
        path = tmp_path / "alerts.toml"
        path.write_text("\n".join(f"[[channel]]\n{it}" for it in channels))
        return Alerter(path, lambda: PostgresConnection(database_url, name="test alerts"))

    return make


def webhook(url: str, *, name: str = "operations", more: str = "") -> str:
    return f'name = "{name}"\ntype = "webhook"\nurl = "{url}"\nsecret = "{SECRET}"\n{more}'


def finish(alerter: Alerter) -> None:
    """Wait until nothing is being sent."""
    for thread in alerter._threads.values():
        thread.join(60)
        assert not thread.is_alive()


def tell(alerter: Alerter, connection: Connection) -> None:
    alerter.notify(connection)
    finish(alerter)


def be_due(connection: Connection) -> None:
    connection.execute("UPDATE alert_messages SET due_at = now() WHERE state = 'waiting'")


def bodies(receiver: HttpReceiver) -> list[dict[str, Any]]:
    return [json.loads(body) for _, body in receiver.posts]


def test_an_incident_is_told_when_it_opens_and_when_it_is_resolved_and_not_besides(
    connection: Connection, make_alerter: Make
) -> None:
    with http_receiver() as receiver:
        alerter = make_alerter(webhook(receiver.url))
        tell(alerter, connection)
        for tenant in ("acme", "globex"):
            die(connection, 20, tenant=tenant)
            look(connection)
            tell(alerter, connection)
        succeed(connection)
        pass_by(connection, QUIET + 1)
        for _ in range(2):
            look(connection)
            tell(alerter, connection)
        opened, resolved = bodies(receiver)
        for headers, body in receiver.posts:
            Verifier(SECRET).verify(body, headers)
    assert opened["type"] == "incident.opened"
    (it,) = opened["data"]["incidents"]
    assert (it["subject"], it["cause"], it["count"], it["tenants"], it["state"]) == (
        "acme.grant",
        "LookupError: no user <n>",
        20,
        ["acme"],
        "open",
    )
    assert resolved["type"] == "incident.resolved"
    (it,) = resolved["data"]["incidents"]
    assert (it["count"], it["tenant_count"], it["state"]) == (40, 2, "resolved")


def test_many_that_open_at_once_are_one_digest_and_later_ones_wait_for_theirs(
    connection: Connection, make_alerter: Make
) -> None:
    with http_receiver() as receiver:
        alerter = make_alerter(webhook(receiver.url))
        tell(alerter, connection)
        for letter in "abcdefgh":
            die(connection, error=f"ValueError: strange {letter * 3}")
        look(connection)
        tell(alerter, connection)
        (digest,) = bodies(receiver)
        assert digest["type"] == "incident.digest"
        assert len(digest["data"]["incidents"]) == 8
        for number, letter in enumerate("ijkl"):
            die(connection, error=f"ValueError: strange {letter * 3}")
            look(connection)
            tell(alerter, connection)
            assert len(receiver.posts) == 2 + number
        for letter in "mn":
            die(connection, error=f"ValueError: strange {letter * 3}")
            look(connection)
            tell(alerter, connection)
        assert len(receiver.posts) == alerts.BURST
        connection.execute("UPDATE alert_messages SET made_at = made_at - interval '6 min' WHERE number > 1")
        tell(alerter, connection)
        assert [it["type"] for it in bodies(receiver)] == ["incident.digest"] + ["incident.opened"] * 6


def test_what_a_failing_receiver_misses_comes_later_in_order_under_the_same_id(
    connection: Connection, make_alerter: Make
) -> None:
    with http_receiver(answers=[500, 503, 429]) as receiver:
        alerter = make_alerter(webhook(receiver.url))
        tell(alerter, connection)
        die(connection)
        look(connection)
        die(connection, error="CRMError: HTTP 502")
        look(connection)
        for _ in range(5):
            tell(alerter, connection)
            be_due(connection)
        ids = [headers["webhook-id"] for headers, _ in receiver.posts]
    assert len(ids) == 5
    assert len(set(ids)) == 2
    assert ids[:4] == ids[:1] * 4
    causes = [it["data"]["incidents"][0]["cause"] for it in bodies(receiver)]
    assert causes == ["LookupError: no user <n>"] * 4 + ["CRMError: HTTP 502"]


def test_a_message_that_is_refused_again_and_again_gives_way_to_the_next(
    connection: Connection, make_alerter: Make
) -> None:
    with http_receiver(answers=[400] * alerting.REFUSALS) as receiver:
        alerter = make_alerter(webhook(receiver.url))
        tell(alerter, connection)
        for error in ("LookupError: none", "CRMError: HTTP 502"):
            die(connection, error=error)
            look(connection)
        for _ in range(alerting.REFUSALS):
            tell(alerter, connection)
            be_due(connection)
        assert len(receiver.posts) == alerting.REFUSALS + 1
    states = connection.execute("SELECT state, error FROM alert_messages ORDER BY number").fetchall()
    assert states == [{"state": "failed", "error": "the receiver answers 400"}, {"state": "sent", "error": None}]


def test_a_sender_that_is_killed_before_it_has_noted_anything_is_followed_by_another(
    connection: Connection, make_alerter: Make
) -> None:
    with http_receiver() as receiver:
        alerter = make_alerter(webhook(receiver.url))
        tell(alerter, connection)
        die(connection)
        look(connection)
        alerts.make_messages(connection, "operations", None, lambda notices, is_digest: [{"type": "x"}])
        killed = alerts.claim(connection, "operations", lease=60)
        assert killed
        assert alerts.claim(connection, "operations", lease=60) is None
        tell(alerter, connection)
        assert receiver.posts == []
        be_due(connection)
        tell(alerter, connection)
        tell(alerter, connection)
        ((headers, _),) = receiver.posts
        assert headers["webhook-id"] == str(killed.id)


def test_a_receiver_that_hangs_holds_up_neither_the_others_nor_the_tick(
    connection: Connection, make_alerter: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alert_sending, "STEP_SECONDS", 30.0)
    with ExitStack() as stack:
        hanging = stack.enter_context(http_receiver(pause=60.0))
        good = stack.enter_context(http_receiver())
        silent = stack.enter_context(smtp_receiver(is_silent=True))
        mail = (
            f'name = "mail"\ntype = "email"\nhost = "127.0.0.1"\nport = {silent.port}\nsecurity = "none"\n'
            'from = "a@example.com"\nto = ["b@example.com"]'
        )
        alerter = make_alerter(webhook(hanging.url, name="hanging"), mail, webhook(good.url, name="good"))
        alerter.notify(connection)
        die(connection)
        look(connection)
        alerter.notify(connection)
        wait_for_posts(good, 1)
        wait_for_posts(hanging, 1)
        assert alerter._threads["hanging"].is_alive()
        assert alerter._threads["mail"].is_alive()
        alerter.notify(connection)  # one thread each, however often
        assert len(hanging.posts) == 1
        hanging.is_over.set()
        silent.is_over.set()
        finish(alerter)
    waiting = {
        row["channel"] for row in connection.execute("SELECT channel FROM alert_messages WHERE state = 'waiting'")
    }
    assert waiting == {"hanging", "mail"}


@pytest.mark.parametrize("behaviour", [{"pause": 60.0}, {"drip": True}])
def test_one_attempt_ends_in_time_whatever_the_receiver_does(behaviour: dict[str, Any]) -> None:
    with http_receiver(**behaviour) as receiver:
        channel = Slack(name="chat", tenants=None, url=receiver.url)
        started = time.monotonic()
        with pytest.raises(SendError, match=r"no answer within 0\.5 s"):
            send_test(channel, seconds=0.5)
        assert time.monotonic() - started < 30


def send_test(channel: Channel, **more: Any) -> None:
    now = datetime.now(UTC)
    send(channel, uuid4(), alert_content.test_content(now=now), now=now, **more)


def test_nobody_listens_there() -> None:
    with http_receiver() as receiver:
        url = receiver.url
    with pytest.raises(SendError, match="ConnectionRefusedError") as raised:
        send_test(Slack(name="chat", tenants=None, url=url))
    assert not raised.value.is_refusal


def test_slack_gets_text(connection: Connection, make_alerter: Make) -> None:
    with http_receiver() as receiver:
        alerter = make_alerter(f'name = "chat"\ntype = "slack"\nurl = "{receiver.url}"')
        tell(alerter, connection)
        die(connection, 3)
        look(connection)
        tell(alerter, connection)
        (body,) = bodies(receiver)
    assert set(body) == {"text"}
    first, figures, tenants, *_ = body["text"].splitlines()
    assert first == "Incident 1 opened: deliveries of acme.grant fail: LookupError: no user <n>"
    assert figures == "3 dead of 1 tenant"
    assert tenants == "Tenants: acme"
    assert body["text"].splitlines()[-1] == "pipeline incidents show 1"


def email(port: int, **more: Any) -> Email:
    given: dict[str, Any] = {"name": "mail", "tenants": None, "host": "127.0.0.1", "port": port, "security": "none"}
    given |= {
        "user": "",
        "password": "",
        "sender": "webhooks@example.com",
        "recipients": ("a@example.com", "b@example.com"),
    }
    return Email(**given | more)


def test_mail_has_a_subject_the_text_and_the_id(connection: Connection, make_alerter: Make) -> None:
    with smtp_receiver() as receiver:
        alerter = make_alerter(
            f'name = "mail"\ntype = "email"\nhost = "127.0.0.1"\nport = {receiver.port}\nsecurity = "none"\n'
            'from = "webhooks@example.com"\nto = ["a@example.com"]'
        )
        tell(alerter, connection)
        die(connection, error="ValueError: é\r\nBcc: c@example.com {}")
        look(connection)
        tell(alerter, connection)
        ((sender, recipients, message),) = receiver.mails
    assert (sender, recipients) == ("webhooks@example.com", ["a@example.com"])
    assert " ".join(message["Subject"].split()) == "Incident 1 opened: deliveries of acme.grant fail: ValueError: é"
    assert message["Bcc"] is None
    (row,) = connection.execute("SELECT id, state FROM alert_messages").fetchall()
    assert message["Message-ID"] == f"<{row['id']}@example.com>"
    assert row["state"] == "sent"
    assert "1 dead of 1 tenant" in message.get_content()


def test_a_mail_server_that_refuses_recipients_says_so() -> None:
    with smtp_receiver(refusals=["550 no such user"]) as receiver:
        with pytest.raises(SendError, match=r"recipients are refused: a@example\.com") as raised:
            send_test(email(receiver.port))
        assert raised.value.is_refusal
        assert len(receiver.mails) == 1
        receiver.refusals = ["451 later", "451 later"]
        with pytest.raises(SendError, match="all recipients are refused") as raised:
            send_test(email(receiver.port))
        assert not raised.value.is_refusal
        with pytest.raises(SendError, match="STARTTLS"):
            send_test(email(receiver.port, security="starttls"))


def test_a_channel_of_a_tenant_is_told_of_its_own_and_shown_nobody_elses(
    connection: Connection, make_alerter: Make
) -> None:
    with http_receiver() as receiver:
        alerter = make_alerter(webhook(receiver.url, more='tenants = ["globex", "initech"]'))
        tell(alerter, connection)
        die(connection, 5, error="LookupError: no user {} of acme")
        look(connection)
        tell(alerter, connection)
        assert receiver.posts == []
        for tenant in ("globex", "initech"):
            die(connection, 2, tenant=tenant, error="LookupError: no user {} of acme")
            look(connection)
            tell(alerter, connection)
        (opened,) = bodies(receiver)
        (it,) = opened["data"]["incidents"]
        assert (it["tenants"], it["count"], "example" in it) == (["globex"], 2, False)
        succeed(connection)
        pass_by(connection, QUIET + 1)
        look(connection)
        tell(alerter, connection)
        assert [it["type"] for it in bodies(receiver)] == ["incident.opened", "incident.resolved"]


def test_while_the_file_is_wrong_what_is_to_be_told_waits(
    connection: Connection, make_alerter: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with http_receiver() as receiver:
        alerter = make_alerter(webhook(receiver.url))
        tell(alerter, connection)
        good = (tmp_path / "alerts.toml").read_text()
        (tmp_path / "alerts.toml").write_text("[[channel")
        die(connection)
        look(connection)
        tell(alerter, connection)
        tell(alerter, connection)
        assert [record.getMessage() for record in caplog.records if "nobody is told" in record.getMessage()] != []
        assert sum("nobody is told" in record.getMessage() for record in caplog.records) == 1
        (tmp_path / "alerts.toml").write_text(good)
        tell(alerter, connection)
        assert len(receiver.posts) == 1


def test_a_new_channel_begins_with_what_happens_from_then_on(connection: Connection, make_alerter: Make) -> None:
    die(connection)
    look(connection)
    with http_receiver() as receiver:
        alerter = make_alerter(webhook(receiver.url))
        tell(alerter, connection)
        assert receiver.posts == []
        die(connection, error="CRMError: HTTP 502")
        look(connection)
        tell(alerter, connection)
        assert len(receiver.posts) == 1


def test_a_message_that_nobody_took_for_days_is_given_up(connection: Connection) -> None:
    content = json.dumps(alert_content.test_content(now=datetime.now(UTC)))
    insert = "INSERT INTO alert_messages (channel, content, made_at) VALUES ('chat', %s, now() - interval '4 days')"
    connection.execute(insert, [content])
    with http_receiver(answers=[503]) as receiver:
        channel = Slack(name="chat", tenants=None, url=receiver.url)
        message = alerts.claim(connection, "chat", lease=60)
        assert message
        assert send_one(connection, channel, message)
    (row,) = connection.execute("SELECT state, error FROM alert_messages").fetchall()
    assert row == {"state": "failed", "error": "the receiver answers 503"}


def test_threads_of_the_test_have_ended() -> None:
    assert not [it for it in threading.enumerate() if it.name.startswith("alerts ")]


def test_a_webhook_over_tls_must_show_a_certificate_that_is_trusted() -> None:
    with http_receiver() as receiver:
        url = receiver.url.replace("http://", "https://")
        channel = Webhook(name="operations", tenants=None, url=url, key=b"0" * 24)
        with pytest.raises(SendError, match="SSL"):
            send_test(channel)
