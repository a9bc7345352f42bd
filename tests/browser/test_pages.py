"""Every page of the console in a browser: readable for all, on a desktop and on a phone, in light and in dark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from deploy.console.routes import RULES
from tests.browser.window import PHONE, Window
from tests.conftest import fresh_database
from tests.console import HANDLER, Guest, Served, Things, announce_handler, furnish, guest, say_wrong, serve_console

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

    from deploy.local.service import Server

EMPTY: Final = ("/tenants?name=zz", "/failures?state=resolved", "/deliveries?state=running", "/events?tenant=zz")


@pytest.fixture(scope="module")
def served(postgres_server: Server, template_database: str, valkey_server: Server) -> Iterator[Served]:
    with fresh_database(postgres_server, template_database) as url, serve_console(url, valkey_server.url) as it:
        it.console.inbox.flushall()
        announce_handler(it.connection)
        say_wrong(it, "maxmemory-policy is allkeys-lru: set noeviction")
        yield it


@pytest.fixture(scope="module")
def acme(served: Served) -> Things:
    return furnish(served, "acme", "LookupError: no account of 'jane@example.com'")


@pytest.fixture(scope="module")
def admin(served: Served, acme: Things) -> Guest:
    return guest(served, "ada", "admin")


def addresses(it: Things) -> dict[str, list[str]]:
    """Return the address of every page, of every form, and of some forms with what they say before it is done."""
    found: dict[str, list[str]] = {"pages": [], "forms": []}
    for rule in RULES:
        if rule.method == "GET" and rule.path not in {"/find", "/sign-in"}:
            number = it.job if rule.path.startswith("/jobs") else it.incident
            path = (
                rule.path.replace("{tenant}", it.tenant).replace("{provider}", "moveris").replace("{id}", str(number))
            )
            path = path.replace("{handler:path}", HANDLER).replace("{event_id}", str(it.dead))
            found["forms" if path.startswith("/do/") else "pages"].append(path)
    found["pages"] += [
        f"/do/retry?events={it.dead}&step=confirm",
        f"/do/endpoint-add?tenant={it.tenant}",
        "/do/retry?tenant=nobody&since=yesterday&step=confirm",
        f"/do/secret-expire?tenant={it.tenant}&provider=moveris&label=first",
        "/failures/99999",
    ]
    found["forms"] += [f"/do/replay?id={it.incident}", f"/events/{it.rejected}", "/?span=day", *EMPTY]
    return found


@pytest.mark.parametrize("which", ["pages", pytest.param("forms", marks=pytest.mark.long)])
def test_axe_core_finds_nothing_on_any_page_in_light_and_dark(
    browser: Browser, served: Served, acme: Things, admin: Guest, which: str
) -> None:
    found = {}
    with Window(browser, served.url, admin.session) as window:
        for address in addresses(acme)[which]:
            window.page.goto(address)
            if violations := window.violations():
                found[address] = violations
    with Window(browser, served.url) as window:
        window.page.goto("/sign-in")
        assert window.violations() == []
    assert found == {}


def test_no_page_is_wider_than_a_phone_and_all_can_be_read_without_scripts(
    browser: Browser, served: Served, acme: Things, admin: Guest
) -> None:
    found = {}
    with Window(browser, served.url, admin.session, viewport=PHONE, java_script_enabled=False) as window:
        for address in addresses(acme)["pages"]:
            window.page.goto(address)
            assert window.page.locator("h1").is_visible()
            assert not window.page.get_by_role("button", name="Copy").is_visible()  # it would need a script
            if (more := window.overflow()) > 0:
                found[address] = more
    assert found == {}


def test_now_refreshes_itself_and_keeps_focus_scroll_selection_and_what_is_open(
    browser: Browser, served: Served, acme: Things, admin: Guest
) -> None:
    with Window(browser, served.url, admin.session, viewport={"width": 1280, "height": 400}) as window:
        page = window.page
        page.goto("/")
        link = page.locator("[data-part=cards] a", has_text="open incidents")
        link.focus()
        page.evaluate("window.scrollTo(0, 300)")
        before = page.locator("[data-part=cards]").inner_text()
        announce_handler(served.connection, "mail.send")
        for _ in range(3):
            furnish(served, f"new-{len(before)}-{_}", f"OSError: disk {_}")
        page.get_by_text("refreshed at").wait_for()
        page.wait_for_function("before => document.querySelector('[data-part=cards]').innerText !== before", arg=before)
        assert page.evaluate("document.activeElement.innerText") == "open incidents"
        assert page.evaluate("window.scrollY") == 300
        page.goto(f"/events/{acme.dead}")
        page.get_by_text("Traceback", exact=True).click()
        page.get_by_label("Why do you look").fill("ticket 7")
        served.connection.execute("UPDATE deliveries_done SET attempt = 9 WHERE event_id = %s", [acme.dead])
        page.locator("[data-part=deliveries]", has_text="9").wait_for()
        assert page.locator("details").first.get_attribute("open") is not None
        assert page.get_by_label("Why do you look").input_value() == "ticket 7"
