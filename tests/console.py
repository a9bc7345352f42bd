"""A console for the tests: served from this process on real servers, with tenants that have one of everything."""

from __future__ import annotations

import html
import json
import re
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import httpx
import uvicorn
from psycopg.types.json import Jsonb

from deploy.console.app import build, serving
from deploy.console.database import Database
from deploy.console.doctor import Doctor
from deploy.console.passwords import hash_password
from deploy.console.rendering import environment
from deploy.console.settings import ConsoleSettings
from deploy.console.sign_in import SignIn, may_be_open
from deploy.console.visit import Console
from deploy.doctor.finding import wrong
from shared.envelope import new_event_id
from shared.redis_client import open_client
from shared.refusals import add_arguments
from shared.registry import Cipher
from shared.settings import load
from tests.conftest import SECRETS_KEY
from tests.names import NAMES
from workers.housekeeping.incidents import group
from workers.store import jobs, people, tenants
from workers.store.catalogue import Registration, announce
from workers.store.connect import connect
from workers.store.jobs import Filter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from uuid import UUID

    from workers.store.connect import Connection
    from workers.store.people import Role

PASSWORD: Final = "correct horse battery"
HANDLER: Final = "crm.sync"
SECRET: Final = "It's a Secret to Everybody"
_TOKEN: Final = re.compile(r'name="token" value="([0-9a-f]{64})"')
_COMMAND: Final = re.compile(r'<p class="command"><code>(.*?)</code>', re.DOTALL)


# The application ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A console that answers at `url`.

    Attributes:
        url: its address.
        console: its parts.
        client: of `Guest`; it has no cookies of its own.
        connection: to its database.
    """

    url: str
    console: Console
    client: httpx.Client
    connection: Connection


@contextmanager
def serve_console(database_url: str, redis_url: str, **variables: str) -> Iterator[Served]:
    """Serve the console for the block, from a thread; `variables` are further settings.

    It is open if it has no users at first and no URL.
    """
    given = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "CONSOLE_SECRETS": "yes",
        "SECRETS_KEY": SECRETS_KEY,
        "CONSOLE_SEARCH_FIELDS": "data.model",
    }
    settings = load(ConsoleSettings, given | variables)
    with connect(database_url, name="test") as connection:
        is_open = not settings.url and may_be_open(settings, people.count_people(connection))
    doctor = Doctor(lambda: ())
    doctor.looked_at = datetime.now(UTC)
    console = Console(
        settings=settings,
        sign_in=SignIn(settings, is_open=is_open),
        templates=environment(),
        names=NAMES,
        inbox=open_client(settings.inbox_url, seconds=1.0, prefix=""),
        broker=open_client(settings.broker_url, seconds=1.0),
        cipher=Cipher([SECRETS_KEY]) if settings.takes_secrets else None,
        environment=settings.environment,
        doctor=doctor,
    )
    app = build(console, Database(settings.database_url))
    server = uvicorn.Server(serving(app))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            with (
                httpx.Client(base_url=url, trust_env=False) as client,
                connect(database_url, name="test") as connection,
            ):
                yield Served(url=url, console=console, client=client, connection=connection)
        finally:
            server.should_exit = True
            thread.join()


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """Somebody at the console: a browser without a window, which follows no redirects.

    Attributes:
        served: the console.
        session: of their cookie; empty for a stranger.
        token: of their session, that every form sends.
    """

    served: Served
    session: str = ""
    token: str = ""

    def get(self, path: str, values: Mapping[str, Any] | None = None, **headers: str) -> httpx.Response:
        """Ask for a page, with a query of these values."""
        return self._send("GET", path, params=_texts(values or {}) or None, headers=headers)

    def post(self, path: str, values: Mapping[str, Any], **headers: str) -> httpx.Response:
        """Post a form, with the token unless `values` have another, and headers beside those of a browser."""
        fields = {"token": self.token} | _texts(values)
        return self._send("POST", path, data=fields, headers={"Origin": self.served.url} | headers)

    def _send(self, method: str, path: str, *, headers: Mapping[str, str], **more: Any) -> httpx.Response:
        named = {name.replace("_", "-"): it for name, it in headers.items()}
        cookie = {"Cookie": f"pipeline_session={self.session}"} if self.session else {}
        answer = self.served.client.request(method, path, headers=cookie | named, **more)
        self.served.client.cookies.clear()
        return answer


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(it) for name, it in values.items()}


def guest(served: Served, name: str, role: Role, *, of: tuple[str, ...] | None = None) -> Guest:
    """Add a person, and return them with a session; they have no password."""
    people.add_person(served.connection, name, role=role, tenants=of)
    session = people.start_session(served.connection, name, seconds=3600)
    token = token_of(Guest(served=served, session=session).get("/doctor"))
    return Guest(served=served, session=session, token=token)


def token_of(page: httpx.Response) -> str:
    """Return the token that a page's forms send."""
    found = _TOKEN.search(page.text)
    assert found, page.text
    return found[1]


def add_user(connection: Connection, name: str, role: Role) -> None:
    """Add a person who signs in with `PASSWORD`."""
    people.add_person(connection, name, role=role, password_hash=hash_password(PASSWORD))


def command_of(page: httpx.Response) -> str | None:
    """Return the command that a page shows; None if it shows none."""
    found = _COMMAND.search(page.text)
    return html.unescape(found[1]) if found else None


# What there is -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Things:
    """What a tenant has.

    Attributes:
        tenant: its name; its endpoint is of moveris, with the secrets first and second.
        dead: an event of which a handler failed, with a traceback.
        succeeded: one that was handled, arrived twice.
        pending: one that waits.
        rejected: one that could not be parsed.
        incident: of the dead one, and of this tenant only.
        job: that was asked for, of this tenant.
    """

    tenant: str
    dead: UUID
    succeeded: UUID
    pending: UUID
    rejected: UUID
    incident: int
    job: int


def announce_handler(connection: Connection, name: str = HANDLER) -> None:
    """Announce a handler of all events of all tenants, as a worker does."""
    every = Registration(
        name=name, event="*", tenant="*", provider="*", max_attempts=3, timeout=30, schedule=(1.0,), serial_by=None
    )
    announce(connection, [every], code_version="1")


def furnish(served: Served, tenant: str, said: str = "") -> Things:
    """Make a tenant with one of everything.

    Args:
        served: the console.
        tenant: its name.
        said: a text that a stranger has put wherever strangers can.
    """
    connection, redis = served.connection, served.console.inbox
    said = said or f"no user in {tenant}"
    tenants.add_tenant(connection, tenant)
    tenants.set_settings(connection, tenant, {"crm": said})
    cipher = Cipher([SECRETS_KEY])
    key = {"tenant": tenant, "provider": "moveris"}
    tenants.add_endpoint(connection, **key, scheme="moveris", label="first", ciphertext=cipher.encrypt(SECRET.encode()))
    tenants.add_secret(connection, **key, label="second", ciphertext=cipher.encrypt(b"another" + SECRET.encode()))
    events = {name: _store(connection, tenant, said) for name in ("dead", "succeeded", "pending")}
    rejected = _store(connection, tenant, said, reason="schema_mismatch")
    _finish(connection, events["dead"], "dead", said)
    _finish(connection, events["succeeded"], "succeeded", None)
    connection.execute(
        "INSERT INTO arrivals (id, first_id, tenant, provider, received_at, secret_label)"
        " VALUES (%s, %s, %s, 'moveris', now(), %s)",
        [new_event_id(datetime.now(UTC)), events["succeeded"], tenant, said[:100]],
    )
    connection.execute(
        "INSERT INTO deliveries (event_id, handler, tenant, last_error, worker) VALUES (%s, %s, %s, %s, %s)",
        [events["pending"], HANDLER, tenant, said, said],
    )
    group(connection, read_refused=tuple, quiet_seconds=600.0)
    (incident,) = connection.execute(
        "SELECT incident FROM deliveries_done WHERE event_id = %s", [events["dead"]]
    ).fetchall()
    redis.eval(*add_arguments(NAMES.refusals, {("moveris", tenant, "invalid_signature"): 3}))
    job = jobs.submit(connection, "retry", Filter(tenant=tenant, error=said), who="somebody", why=said, expected=1)
    return Things(tenant=tenant, **events, rejected=rejected, incident=incident["incident"], job=job)


def _store(connection: Connection, tenant: str, said: str, *, reason: str | None = None) -> UUID:
    moment = datetime.now(UTC) - timedelta(seconds=2)
    event_id = new_event_id(moment)
    connection.execute(
        "INSERT INTO events"
        " (id, provider, tenant, type, subject, received_at, headers, body, secret_label, fingerprint, state,"
        " reject_reason, notes) VALUES (%s, 'moveris', %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [
            *(event_id, tenant, said, said, moment),
            Jsonb([["content-type", said], [said, said], ["x-signature", "0123456789abcdef"]]),
            json.dumps({"data": {"model": said}, said: said}, ensure_ascii=False).encode(errors="surrogatepass"),
            *(said[:100], event_id.bytes, "rejected" if reason else "accepted", reason, [said]),
        ],
    )
    return event_id


def _finish(connection: Connection, event_id: UUID, state: str, error: str | None) -> None:
    connection.execute(
        "INSERT INTO deliveries_done"
        " (event_id, handler, tenant, state, attempt, fence, worker, last_error, created_at, finished_at)"
        " SELECT id, %s, tenant, %s, 3, 3, 'handlers@host:7', %s, received_at, now() FROM events WHERE id = %s",
        [HANDLER, state, error, event_id],
    )
    if error is not None:
        connection.execute(
            "INSERT INTO attempts (event_id, handler, fence, attempt, error, traceback, duration, worker)"
            " VALUES (%s, %s, 3, 3, %s, %s, interval '0.2 s', 'handlers@host:7')",
            [event_id, HANDLER, error, f"Traceback (most recent call last):\n  raise {error}"],
        )


def say_wrong(served: Served, text: str) -> None:
    """Let the doctor find something."""
    served.console.doctor.findings = (wrong("redis eviction", text),)
