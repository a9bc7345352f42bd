"""What strangers sent is text on every page, which has the elements that it has for harmless texts, and no others."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import pytest

from deploy.console.routes import RULES
from tests.conftest import fresh_database
from tests.console import Guest, Served, Things, announce_handler, furnish, guest, say_wrong, serve_console
from tests.hostile import ELSEWHERE, TEXTS, TOGETHER

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from deploy.local.service import Server

HARMLESS: Final = "harmless"
ADDRESSES: Final = {"href", "src", "action", "formaction"}
QUERIES: Final = (
    *("tenant", "provider", "type", "subject", "state", "reason", "outcome", "handler", "since", "until", "field"),
    *("text", "before", "after", "q", "back", "name", "who", "what", "target", "id", "events", "label", "span", "for"),
    *("why", "step", "error", "rate", "key", "value", "scheme", "description", "new_name", "in", "role", "tenants"),
)
TENANTS: Final = [f"hostile-{chr(ord('a') + place)}" for place in range(len(TEXTS))]


class Structure(HTMLParser):
    """The elements of a page, in order, each with the names of its attributes; and its texts."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, ...]] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, *(name for name, _ in attrs)))
        self.addresses += [value or "" for name, value in attrs if name in ADDRESSES]
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self.elements.append((f"/{tag}",))
        self._open.append("/")

    def handle_comment(self, data: str) -> None:
        self.elements.append(("comment", data))

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["textarea"]:
            self.texts.append(data)


def check(answer: httpx.Response) -> Structure:
    """Return the structure of a page, of which every address is one of the console's, and no sign is invisible."""
    page = Structure(answer.text)
    for address in page.addresses:
        assert re.fullmatch(r"/([^/\\].*)?|#content", address), address
    hidden = {it for text in page.texts for it in text if not it.isprintable() and it not in "\n\t"}
    assert not hidden, (answer.url, hidden)
    return page


@pytest.fixture(scope="module")
def served(postgres_server: Server, template_database: str, valkey_server: Server) -> Iterator[Served]:
    with fresh_database(postgres_server, template_database) as url, serve_console(url, valkey_server.url) as it:
        it.console.inbox.flushall()
        announce_handler(it.connection)
        yield it


@pytest.fixture(scope="module")
def admin(served: Served) -> Guest:
    return guest(served, "ada", "admin")


@pytest.fixture(scope="module")
def harmless(served: Served) -> Things:
    return furnish(served, "harmless", HARMLESS)


@pytest.fixture(scope="module")
def hostile(served: Served, harmless: Things) -> dict[str, Things]:
    """What a tenant has, for each text; its incident is found by its text."""
    return {text: furnish(served, tenant, text) for tenant, text in zip(TENANTS, TEXTS, strict=True)}


def pages_of(it: Things) -> list[str]:
    """Return the pages that are about one tenant."""
    events = [f"/events/{event}" for event in (it.dead, it.succeeded, it.pending, it.rejected)]
    lists = [f"/{name}?tenant={it.tenant}" for name in ("events", "deliveries", "failures", "endpoints")]
    single = [f"/tenants/{it.tenant}", f"/endpoints/{it.tenant}/moveris", f"/failures/{it.incident}", f"/jobs/{it.job}"]
    return [*events, *lists, *single]


def look(somebody: Guest, it: Things) -> dict[str, list[tuple[str, ...]]]:
    """Return the elements of each page about a tenant, by what the page is about."""
    answers = {path.replace(it.tenant, "").rstrip("0123456789abcdef-"): somebody.get(path) for path in pages_of(it)}
    answers["/events/body"] = somebody.post(f"/events/{it.dead}/body", {"why": "?"})
    assert {it.status_code for it in answers.values()} == {200}
    return {name: check(answer).elements for name, answer in answers.items()}


@pytest.fixture(scope="module")
def expected(admin: Guest, harmless: Things) -> dict[str, list[tuple[str, ...]]]:
    return look(admin, harmless)


@pytest.mark.parametrize("text", TEXTS, ids=TENANTS)
def test_a_page_about_a_hostile_tenant_has_the_elements_of_one_about_a_harmless_one(
    admin: Guest, expected: dict[str, list[tuple[str, ...]]], hostile: dict[str, Things], text: str
) -> None:
    assert look(admin, hostile[text]) == expected


def test_lists_of_everything_have_no_other_elements_than_lists_of_harmless_things(
    served: Served, admin: Guest, hostile: dict[str, Things]
) -> None:
    say_wrong(served, HARMLESS)
    paths = [it.path for it in RULES if it.method == "GET" and "{" not in it.path and it.path != "/find"]
    allowed = {it for path in paths for it in check(admin.get(path, {"tenant": "harmless"})).elements}
    say_wrong(served, "".join(TEXTS))
    for path in paths:
        assert set(check(admin.get(path)).elements) <= allowed | {("td", "colspan")}, path


def is_harmless(page: Structure) -> bool:
    """Return whether no element would run something or fetch from elsewhere."""
    attributes = {name for element in page.elements for name in element[1:]}
    tags = {element[0] for element in page.elements}
    runs = any(name.startswith("on") or name in {"srcdoc", "style", "http-equiv"} for name in attributes)
    return not runs and not tags & {"base", "iframe", "object", "embed", "img", "style", "math", "comment"}


def test_what_stands_in_an_address_is_text_on_the_page_that_it_asks_for(admin: Guest, harmless: Things) -> None:
    for rule in RULES:
        if rule.method == "GET" and rule.path != "/find":
            path = rule.path.replace("{id}", str(harmless.incident)).replace("{event_id}", str(harmless.dead))
            path = path.replace("{tenant}", "harmless").replace("{provider}", "moveris")
            path = path.replace("{handler:path}", "crm.sync")
            assert is_harmless(check(admin.get(path, dict.fromkeys(QUERIES, TOGETHER[:400]))))
            for name in ("tenant", "state", "back", "since"):
                assert is_harmless(check(admin.get(path, {name: TOGETHER})))


@pytest.mark.parametrize("text", TEXTS, ids=TENANTS)
def test_nobody_is_sent_elsewhere_by_a_link_to_the_console(served: Served, admin: Guest, text: str) -> None:
    for back in (text[:400], ELSEWHERE, f"/{ELSEWHERE}", f"\\{ELSEWHERE}", f"/\t{ELSEWHERE}", f"https:{ELSEWHERE}"):
        assert is_harmless(check(Guest(served=served).get("/sign-in", {"back": back})))
        assert is_harmless(check(admin.get("/do/tenant-add", {"back": back})))
        assert admin.get("/sign-in", {"back": back}).headers["location"].startswith("/")
        assert not admin.get("/sign-in", {"back": back}).headers["location"].startswith(("//", "/\\", "/\t"))


def test_what_stands_in_a_path_a_cookie_or_a_form_is_text_too(served: Served, admin: Guest, harmless: Things) -> None:
    text, part = TOGETHER, quote(TOGETHER, safe="")
    for path in ("/events/{}", "/failures/{}", "/jobs/{}", "/tenants/{}", "/endpoints/{}/x", "/handlers/{}", "/{}"):
        answer = admin.get(path.format(part))
        assert answer.status_code in {400, 404}, path
        assert is_harmless(check(answer))
    answers = [
        admin.get("/", None, Cookie=f"pipeline_session={admin.session}; pipeline_said={part}"),
        Guest(served=served).post("/sign-in", {"name": text, "password": text, "back": text}),
        admin.post("/verify", {"tenant": "harmless", "provider": "moveris", "headers": f"x-a: {text}", "body": text}),
        admin.post("/reconcile", {"tenant": "harmless", "ids": text}),
        admin.post("/do/tenant-set", {"tenant": "harmless", "key": text[:60], "value": "", "why": text}),
        admin.post("/do/user-add", {"name": text, "role": text, "tenants": text, "password": text}),
        admin.post("/do/endpoint-add", {"tenant": text, "provider": text, "description": text, "label": text}),
        admin.post("/do/retry", {"tenant": text, "since": text, "events": text, "rate": text}),
    ]
    for answer in answers:
        assert is_harmless(check(answer)), answer.request.url
        assert ELSEWHERE not in answer.headers.get("location", "")


def test_a_body_that_is_no_text_is_shown_and_downloaded_as_it_came(
    served: Served, admin: Guest, harmless: Things
) -> None:
    body = bytes(range(256)) + b"<script>alert(1)</script>" + b"\xed\xa0\x80"
    served.connection.execute("UPDATE events SET body = %s WHERE id = %s", [body, harmless.succeeded])
    page = check(admin.post(f"/events/{harmless.succeeded}/body", {"why": "?"}))
    assert is_harmless(page)
    assert any("\\xff<script>alert(1)</script>\\xed" in it for it in page.texts)
    answer = admin.post(f"/events/{harmless.succeeded}/download", {"why": "?"})
    assert answer.content == body
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
