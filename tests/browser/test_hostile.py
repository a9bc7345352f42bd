"""What strangers sent runs nothing in a browser: no script, no request to elsewhere, no violation of the policy."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from deploy.console.routes import RULES
from tests.browser.window import Window
from tests.conftest import fresh_database
from tests.console import Guest, Served, Things, announce_handler, furnish, guest, say_wrong, serve_console
from tests.hostile import TEXTS, TOGETHER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

    from deploy.local.service import Server


@pytest.fixture(scope="module")
def served(postgres_server: Server, template_database: str, valkey_server: Server) -> Iterator[Served]:
    with fresh_database(postgres_server, template_database) as url, serve_console(url, valkey_server.url) as it:
        it.console.inbox.flushall()
        announce_handler(it.connection)
        say_wrong(it, TOGETHER)
        yield it


@pytest.fixture(scope="module")
def hostile(served: Served) -> Things:
    """What a tenant has, with all texts in one."""
    return furnish(served, "together", TOGETHER)


@pytest.fixture(scope="module")
def admin(served: Served) -> Guest:
    return guest(served, "ada", "admin")


def check(window: Window) -> None:
    """Make sure that nothing ran; the window has heard of everything else."""
    assert window.problems == []
    assert window.page.evaluate("window.ran") is None
    assert window.page.locator("h1").is_visible()


def test_every_list_shows_what_strangers_sent_and_runs_nothing(
    browser: Browser, served: Served, hostile: Things, admin: Guest
) -> None:
    with Window(browser, served.url, admin.session) as window:
        for rule in RULES:
            if rule.method == "GET" and not rule.path.startswith(("/do/", "/find")) and "{" not in rule.path:
                window.page.goto(rule.path)
                check(window)
                window.page.goto(f"{rule.path}?tenant={quote(TOGETHER)}&back={quote(TOGETHER)}")
                check(window)


def test_everything_about_an_event_is_text_in_a_browser(
    browser: Browser, served: Served, hostile: Things, admin: Guest
) -> None:
    look(browser, served, admin, hostile, TOGETHER)


@pytest.mark.long
@pytest.mark.parametrize("number", range(len(TEXTS)))
def test_each_text_is_text_in_a_browser(browser: Browser, served: Served, admin: Guest, number: int) -> None:
    look(browser, served, admin, furnish(served, f"tenant-{number}", TEXTS[number]), TEXTS[number])


def look(browser: Browser, served: Served, admin: Guest, it: Things, text: str) -> None:
    """Look at what an event with this text has led to, at its body, and at a form with the text."""
    with Window(browser, served.url, admin.session) as window:
        page = window.page
        page.goto(f"/failures/{it.incident}")
        check(window)
        page.goto(f"/events/{it.dead}")
        check(window)
        page.get_by_label("Why do you look").fill("to see it run")
        page.get_by_role("button", name="Reveal").click()
        page.get_by_role("heading", name="As JSON").wait_for()
        check(window)
        page.goto(f"/do/tenant-set?tenant={it.tenant}&key=crm&value={quote(text)}&back={quote(text)}")
        check(window)
        page.get_by_role("link", name="Back").click()
        check(window)
