"""An operator's day in a browser, against a whole stack: why an event failed, its replay, a pause, a new secret."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.browser.hands import Keyboard, Mouse
from tests.browser.window import PHONE, SCHEMES, Window
from tests.launching import free_port
from tests.moveris import completed
from tests.system.stack import Stack, answers
from tests.system.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from tests.browser.hands import Hands

PASSWORD: Final = "correct horse battery"
NEW_SECRET: Final = "whsec-of-november-0123456789"
WAYS: Final[dict[str, tuple[type[Mouse | Keyboard], str, dict[str, Any]]]] = {
    "by mouse": (Mouse, "hooli", {}),
    "by keyboard": (Keyboard, "initrode", {}),
    "without scripts": (Mouse, "umbrella", {"java_script_enabled": False}),
}
"""Ways to use a page, with the tenant whose things are changed, and options of the browser."""
TENANTS: Final = ("acme", "globex", "initech", *(tenant for _, tenant, _ in WAYS.values()))
PICTURE: Final = {"width": 1180, "height": 800}
MOST_PICTURE_BYTES: Final = 150_000
_LAST_HOUR: Final = """
    INSERT INTO activity (span, at, handler, outcome, bucket, count)
    SELECT 'minute', date_trunc('minute', now()) - m * interval '1 minute', handler, outcome, 3, count
    FROM generate_series(1, 59) AS m, LATERAL (VALUES
        ('', 'stored', 900 + (180 * sin(m / 7.0) + 70 * sin(m * 1.7))::int),
        ('mail.confirm', 'succeeded', 440 + (90 * sin(m / 7.0) + 35 * sin(m * 1.7))::int),
        ('crm.enroll', 'succeeded', CASE WHEN m < 9 THEN 130 ELSE 430 END + (80 * sin(m / 7.0))::int),
        ('crm.enroll', 'dead', CASE WHEN m < 9 THEN 300 ELSE 4 END)
    ) AS it(handler, outcome, count)
    ON CONFLICT DO NOTHING
"""
"""Traffic of an hour, so that there is a chart to look at."""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    home = Path(tempfile.mkdtemp(prefix="pipeline-browser-", dir="/tmp"))
    home.chmod(0o755)
    settings = {"HANDLERS": "tests.browser.handlers", "HANDLER_WORKERS": "1", "INGRESS_WORKERS": "1"}
    try:
        with Stack(home, handlers=(), environ=settings) as it:
            it.add_tenants(*TENANTS)
            yield it
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def console(stack: Stack) -> Iterator[str]:
    """Where the console of the stack listens; ada is its administrator."""
    stack.pipeline("console", "add-user", "ada", "--role", "admin", "--password-stdin", text=PASSWORD)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with stack.further("-m", "deploy.console", environ={"CONSOLE_PORT": str(port), "CONSOLE_SECRETS": "yes"}):
        until(lambda: answers(stack.client, f"{url}/livez"), seconds=30, what="the console")
        yield url


@pytest.fixture(scope="module")
def failed(stack: Stack) -> dict[str, str]:
    """The ids of events of which a handler failed, by tenant; its other side is away."""
    found = {}
    for tenant in TENANTS:
        (stack.home / f"away-{tenant}").touch()
        found[tenant] = stack.endpoint(tenant).deliver(completed())
    for event_id in found.values():
        until(
            lambda event_id=event_id: stack.query(  # type: ignore[misc]
                "SELECT FROM deliveries_done WHERE event_id = %s AND state = 'dead'", [event_id]
            ),
            seconds=20,
            what="the end of its last attempt",
        )
    return found


def is_said(page: Page, text: str) -> bool:
    """Load a page again, as somebody without scripts does; return whether it says something."""
    page.reload()
    return text in text_of(page)


def text_of(page: Page) -> str:
    return page.locator("main").inner_text()


def test_pictures_are_taken_of_now_an_event_and_an_incident(
    browser: Browser, stack: Stack, console: str, failed: dict[str, str], pictures: Path
) -> None:
    stack.query(_LAST_HOUR)
    for _ in range(20):
        stack.endpoint("acme").deliver(completed())
    (incident,) = until(
        lambda: stack.query("SELECT id FROM incidents WHERE state = 'open' AND count >= 6"), seconds=30, what="one"
    )
    addresses = {"now": "/", "event": f"/events/{failed['acme']}", "incident": f"/failures/{incident['id']}"}
    with Window(browser, console) as window:
        page = window.page
        sign_in(page, Mouse(page))
        pause(page, Mouse(page), "globex")
        for name, address in addresses.items():
            page.goto(address)
            for scheme in SCHEMES:
                page.emulate_media(color_scheme=scheme)
                for kind, size in (("", PICTURE), ("-phone", PHONE)):
                    page.set_viewport_size(size)  # type: ignore[arg-type]
                    taken = page.screenshot(path=pictures / f"{name}{kind}{'' if scheme == 'light' else '-dark'}.png")
                    assert len(taken) < MOST_PICTURE_BYTES


@pytest.mark.parametrize(
    "way", [it if it == "by keyboard" else pytest.param(it, marks=pytest.mark.long) for it in WAYS]
)
def test_somebody_finds_out_why_an_event_failed_replays_it_pauses_a_handler_and_rotates_a_secret(
    browser: Browser, stack: Stack, console: str, failed: dict[str, str], way: str
) -> None:
    kind, tenant, options = WAYS[way]
    with Window(browser, console, **options) as window:
        page = window.page
        hands: Hands = kind(page)
        sign_in(page, hands)
        read_why(page, hands, tenant, failed[tenant])
        (stack.home / f"away-{tenant}").unlink()
        replay(page, hands, failed[tenant], is_live=not options)
        pause(page, hands, tenant)
        assert stack.query("SELECT pause_reason FROM handler_pauses WHERE tenant = %s", [tenant]) == [
            {"pause_reason": "their CRM is away"}
        ]
        rotate(stack, page, hands, tenant)
        hands.follow("Sign out")
        page.get_by_role("heading", name="Sign in").wait_for()
    changed = stack.query("SELECT who, why FROM audit WHERE why LIKE %s ORDER BY id", [f"%{tenant}%"])
    assert {it["who"] for it in changed} == {"ada"}


def sign_in(page: Page, hands: Hands) -> None:
    page.goto("/")
    page.get_by_role("heading", name="Sign in").wait_for()
    hands.fill("Name", "ada")
    hands.fill("Password", PASSWORD)
    hands.follow("Sign in")
    page.get_by_role("heading", name="Now", exact=True).wait_for()


def read_why(page: Page, hands: Hands, tenant: str, event_id: str) -> None:
    hands.follow("Events")
    hands.fill("Tenant", tenant)
    hands.choose("Outcome", "dead")
    hands.follow("Show")
    page.wait_for_url(re.compile(rf"/events\?.*tenant={tenant}.*outcome=dead"))
    narrowed = page.url
    hands.follow("Cancel open deliveries…")  # and think better of it: the filters are still there
    hands.follow("Back")
    page.wait_for_url(narrowed)
    hands.follow(event_id)
    page.get_by_role("heading", name="Event", exact=True).wait_for()
    assert f"ConnectionError: HTTP 503 from https://crm.example/{tenant}/people" in text_of(page)


def replay(page: Page, hands: Hands, event_id: str, *, is_live: bool) -> None:
    hands.follow("Put dead deliveries back…")
    page.get_by_text("Put 1 delivery back").wait_for()
    assert f"pipeline deliveries retry {event_id}" in text_of(page)
    hands.fill("Why", "it is back")
    hands.follow("Put dead deliveries back")
    page.get_by_role("heading", name=re.compile(r"Job \d+: retry")).wait_for()
    if is_live:
        page.locator("[data-part=job] .badge", has_text="done").wait_for()
    until(lambda: is_said(page, "done"), seconds=20, what="the end of the job", every=0.5)
    hands.follow("Back to where it was asked for")
    page.wait_for_url(f"**/events/{event_id}")
    until(lambda: not is_said(page, "dead"), seconds=20, what="the end of the replay", every=0.5)


def pause(page: Page, hands: Hands, tenant: str) -> None:
    hands.follow("Handlers")
    hands.follow("crm.enroll")
    hands.follow("Pause…")
    hands.fill("Tenant", tenant)
    hands.fill("Why", "their CRM is away")
    hands.follow("Pause the handler")
    page.get_by_text(f"Start none of the deliveries of crm.enroll for the tenant {tenant}.").wait_for()
    hands.follow("Pause the handler")  # it was said of all tenants when the form was opened
    page.get_by_text(f"crm.enroll is paused for the tenant {tenant}").wait_for()
    assert page.url.endswith("/handlers/crm.enroll")
    assert f"for {tenant}" in text_of(page)


def rotate(stack: Stack, page: Page, hands: Hands, tenant: str) -> None:
    new, old = stack.endpoint(tenant, secret=NEW_SECRET.encode()), stack.endpoint(tenant)
    hands.follow("Endpoints")
    hands.follow(f"/webhooks/moveris/{tenant}")
    hands.follow("Add a secret…")
    hands.fill("Label", "november")
    hands.fill("Secret", NEW_SECRET)
    hands.fill("Why", f"rotated for {tenant}")
    hands.follow("Add a secret")
    page.get_by_text("added the secret november").wait_for()
    until(lambda: new.post(completed()).status_code == 200, seconds=5, what="an event signed by the new secret")
    assert old.post(completed()).status_code == 200
    hands.follow("Expire first…")
    hands.fill("Why", f"rotated for {tenant}")
    hands.follow("Expire the secret")
    page.get_by_text("expires").first.wait_for()
    until(lambda: old.post(completed()).status_code == 401, seconds=5, what="the end of the old secret")
    assert NEW_SECRET not in page.content()
