"""A team's own event models: loaded by the workers and the command, used by the drain, refused in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography.fernet import Fernet
from redis import Redis

from shared.envelope import Envelope, encode, new_event_id
from tests.integration.draining import Fixed
from tests.names import NAMES
from workers import events
from workers.errors import RegistrationError
from workers.ingest.drain import drain
from workers.ingest.inbox_reader import InboxReader
from workers.registration import Handler
from workers.settings import WorkerSettings
from workers.store.catalogue import announce

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.cli.conftest import Pipeline
    from workers.store.connect import Connection

MODELS = """
    from dataclasses import dataclass
    from datetime import datetime

    from workers.events import Parsed, Rejected, identity_fingerprint, read_object

    PROVIDER = "billing"

    @dataclass(frozen=True, kw_only=True)
    class InvoicePaid:
        provider: str
        type: str
        subject: str
        occurred_at: datetime
        cents: int

    def parse(provider, body, headers):
        tree = read_object(body)
        if not isinstance(tree.get("cents"), int):
            raise Rejected("schema_mismatch", "cents: a whole number is expected")
        at = datetime.fromisoformat(tree["at"])
        event = InvoicePaid(
            provider=provider, type="invoice.paid", subject=tree["id"], occurred_at=at, cents=tree["cents"]
        )
        return Parsed(
            type=event.type, subject=event.subject, occurred_at=at, signed_at=at,
            fingerprint=identity_fingerprint(PROVIDER, event.subject), event=event,
        )
"""


@pytest.fixture(autouse=True)
def _own_parsers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_parsers", dict(events._parsers))
    monkeypatch.setattr(events, "_loaders", dict(events._loaders))


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, whose modules are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(team: Path, name: str, text: str) -> str:
    (team / f"{name}.py").write_text(textwrap.dedent(text))
    return name


EVERYONE = Fixed(lambda _provider, event, _tenant: ("acme.bill",) if event == "invoice.paid" else ())


def test_the_drain_stores_what_the_teams_model_says_and_handlers_get_it(
    team: Path, redis_url: str, connection: Connection
) -> None:
    events.load_modules([write(team, "acme_models", MODELS)])
    now = datetime.now(UTC)
    with Redis.from_url(redis_url) as client:
        for number, (cents, age) in enumerate(((100, 0), (101, 0), ("free", 0), (1, 31))):
            at = (now - timedelta(days=age)).isoformat()
            body = json.dumps({"id": f"inv_{number // 2}", "cents": cents, "at": at}).encode()
            envelope = Envelope(
                id=new_event_id(now), provider="billing", tenant="acme", secret_label="a", received_at=now, headers=(),
                body=body,
            )  # fmt: skip
            client.xadd(NAMES.inbox, encode(envelope))
        reader = InboxReader(client, names=NAMES, consumer="one")
        urls = {"DATABASE_URL": "postgresql://x", "REDIS_URL": redis_url, "SECRETS_KEY": Fernet.generate_key().decode()}
        counts = drain(reader, connection, identity="test", catalogue=EVERYONE, settings=load_settings(urls))
    assert (counts.stored, counts.duplicates, counts.rejected) == (1, 1, 2)
    stored = list(
        connection.execute("SELECT provider, type, body, headers, subject FROM events WHERE type IS NOT NULL")
    )
    assert [(row["type"], row["subject"]) for row in stored] == [("invoice.paid", "inv_0")]
    reasons = {row["reject_reason"] for row in connection.execute("SELECT reject_reason FROM events")}
    assert reasons == {None, "schema_mismatch", "too_old"}
    parsed = events.parse("billing", bytes(stored[0]["body"]))
    assert type(parsed.event).__name__ == "InvoicePaid"


def load_settings(environ: dict[str, str]) -> WorkerSettings:
    from shared.settings import load  # noqa: PLC0415 - the name is taken by events here

    return load(WorkerSettings, environ)


def test_a_teams_model_takes_the_place_of_ours(team: Path) -> None:
    text = MODELS.replace('"billing"', '"moveris"')
    events.load_modules([write(team, "acme_moveris", text)])
    parsed = events.parse("moveris", b'{"id": "a", "cents": 1, "at": "2026-01-01T00:00:00+00:00"}')
    assert parsed.type == "invoice.paid"
    assert not [key for key in events._loaders if key[0] == "moveris"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "PROVIDER = 'a'",
            "EVENTS: the module 'acme_wrong' needs PROVIDER, a text, and parse(provider, body, headers)",
        ),
        ("def parse(provider, body, headers): ...", "EVENTS: the module 'acme_wrong' needs PROVIDER, a text"),
        ("PROVIDER = 1\ndef parse(*it): ...", "EVENTS: the module 'acme_wrong' needs PROVIDER, a text"),
        ("1 / 0", "EVENTS: the module 'acme_wrong' does not import: ZeroDivisionError: division by zero"),
        ("raise ValueError('a\\nb')", "EVENTS: the module 'acme_wrong' does not import: ValueError: a b"),
    ],
)
def test_a_wrong_module_is_refused_in_one_line(team: Path, text: str, line: str) -> None:
    write(team, "acme_wrong", text)
    with pytest.raises(RegistrationError) as caught:
        events.load_modules(["acme_wrong"])
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_two_modules_of_one_provider_are_refused(team: Path) -> None:
    names = [write(team, name, MODELS) for name in ("acme_one", "acme_two")]
    with pytest.raises(RegistrationError, match="'acme_one' and 'acme_two' are both of billing: name one"):
        events.load_modules(names)


@pytest.mark.parametrize(
    "returned",
    [
        "None",
        "Parsed(type=None, subject=None, occurred_at=None, fingerprint=b'', event=None)",
        "Parsed(type=[], subject=None, occurred_at=None, fingerprint=b'', event=None)",
        "Parsed(type='a', subject=1, occurred_at=None, fingerprint=b'', event=None)",
        "Parsed(type='a', subject=None, occurred_at=datetime(2026, 1, 1), fingerprint=b'', event=None)",
        "Parsed(type='a', subject=None, occurred_at=None, signed_at=1, fingerprint=b'', event=None)",
        "Parsed(type='a', subject=None, occurred_at=None, fingerprint='', event=None)",
        "Parsed(type='a', subject=None, occurred_at=None, fingerprint=b'', event=None, notes=(1,))",
    ],
)
def test_a_model_that_returns_what_cannot_be_stored_fails_its_own_events_only(team: Path, returned: str) -> None:
    text = f"""
        from datetime import datetime
        from workers.events import Parsed
        PROVIDER = "billing"
        def parse(provider, body, headers):
            return {returned}
    """
    events.load_modules([write(team, "acme_odd", text)])
    with pytest.raises(TypeError, match="parse returns Parsed with texts"):
        events.parse("billing", b"{}")
    assert events.parse("in-house", b"{}").type == "unknown"


def test_the_workers_and_the_command_load_the_modules(pipeline: Pipeline, connection: Connection) -> None:
    write(pipeline.folder, "acme_models", MODELS)
    write(pipeline.folder, "acme_handlers", "import acme_models\nfrom workers import handler")
    start = [sys.executable, "-c", "import workers.app; from workers import events; print(sorted(events._parsers))"]
    for name, status in (("acme_models", 0), ("no_such", 1)):
        environ = pipeline.environ | {"EVENTS": name, "HANDLERS": "acme_handlers", "PYTHONPATH": str(pipeline.folder)}
        path = os.pathsep.join([str(pipeline.folder), os.getcwd()])  # noqa: PTH109 - as the shell says it
        ended = subprocess.run(start, env=environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
        assert ended.returncode == status, ended
        if status:
            assert ended.stderr.startswith("workers: EVENTS: the module 'no_such' does not import: ModuleNotFoundError")
            assert len(ended.stderr.splitlines()) == 1
        else:
            assert "'billing'" in ended.stdout
    refused = pipeline("events", "reprocess", "--reason", "x", EVENTS="no_such", status=1).err
    assert refused.startswith("pipeline: EVENTS: the module 'no_such' does not import")
    assert len(refused.splitlines()) == 1
    reprocess = ("events", "reprocess", "--reason", "x")
    assert "start a handler worker first" in pipeline(*reprocess, EVENTS="acme_models", status=1).err
    announce(connection, [Handler(name="acme.bill", function=print)], code_version="1")
    pipeline(*reprocess, EVENTS="acme_models")
