"""One request to the console, as pages see it: who asks, with what, and a connection to answer from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from jinja2 import Environment
from redis import Redis
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from deploy.console.breaker import Breaker
from deploy.console.doctor import Doctor
from deploy.console.navigation import PAGES
from deploy.console.settings import ConsoleSettings
from deploy.console.sign_in import SignIn, Visitor
from shared.registry import Cipher
from shared.wire import Names
from workers.store.connect import Connection
from workers.store.people import Person, Role

SAID_COOKIE: Final = "pipeline_said"
SAID_SECONDS: Final = 30
MOST_SAID: Final = 300


class ForbiddenError(Exception):
    """This person may not do that; the text says what is needed."""


class NotFoundError(Exception):
    """There is no such thing; the text says which."""


class InputError(Exception):
    """What was entered cannot be taken; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """The parts of the application, made once.

    Attributes:
        templates: see `rendering`.
        inbox: a client of the Redis of the inbox, with a short timeout.
        broker: of the queues; may be the same.
        cipher: encrypts secrets; None where the console may not (`CONSOLE_SECRETS`).
        environment: the name of the deployment, empty where none is set.
        doctor: what it has found lately.
        inbox_breaker: around what pages ask the inbox.
        broker_breaker: the same of the broker.
    """

    settings: ConsoleSettings
    sign_in: SignIn
    templates: Environment
    names: Names
    inbox: Redis
    broker: Redis
    cipher: Cipher | None
    environment: str
    doctor: Doctor
    inbox_breaker: Breaker = field(default_factory=Breaker)
    broker_breaker: Breaker = field(default_factory=Breaker)


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """A request.

    Attributes:
        visitor: who asks; None on pages for anybody.
        connection: to Postgres, in autocommit, bounded.
        form: what was posted, decoded; empty for a GET.
    """

    console: Console
    request: Request
    visitor: Visitor | None
    connection: Connection
    form: Mapping[str, str]

    @property
    def person(self) -> Person:
        """Who asks."""
        if self.visitor is None:
            raise ForbiddenError("sign in first")
        return self.visitor.person

    @property
    def query(self) -> dict[str, str]:
        """What stands in the URL after the question mark, empty values left out."""
        return {name: value.strip() for name, value in self.request.query_params.items() if value.strip()}

    def given(self, name: str) -> str | None:
        """Return a value of the form, else of the URL; None where it is empty."""
        text = self.form.get(name, self.request.query_params.get(name, "")).strip()
        return text or None

    def require(self, role: Role, tenant: str | None = None) -> None:
        """Make sure that this person may do something of a tenant, or of all tenants (None).

        Raises:
            ForbiddenError: they may not.
        """
        if not self.person.may(role, tenant):
            whose = "things of all tenants" if tenant is None else f"the tenant {tenant}"
            raise ForbiddenError(f"{self.person.name} is {self.person.role} and may not change {whose}")

    def page(self, template: str, *, title: str, status: int = 200, **values: Any) -> Response:
        """Return a page.

        Args:
            template: name of a file in `templates/`, without its ending.
            title: of the page.
            status: of the response.
            values: for the template; `command` is the line that does the same in a shell.
        """
        said_cookie = self.console.sign_in.cookie_name_of(SAID_COOKIE)
        said = unquote(self.request.cookies.get(said_cookie, ""))[:MOST_SAID]
        text = self.console.templates.get_template(f"{template}.html").render(
            {"command": None, "live": None, **values},
            title=title,
            pages=PAGES,
            path=self.request.url.path,
            here=self.here,
            visitor=self.visitor,
            may=self.visitor.person.may if self.visitor else lambda *_: False,
            said=said,
            settings=self.console.settings,
            environment=self.console.environment,
            query=self.query,
        )
        response = HTMLResponse(text, status_code=status)
        if said:
            response.set_cookie(**self.console.sign_in.cookie_of(SAID_COOKIE, "", SAID_SECONDS))
        return response

    @property
    def here(self) -> str:
        """The address of this page, to come back to."""
        query = self.request.url.query
        return f"{self.request.url.path}?{query}" if query else self.request.url.path

    def go(self, path: str, said: str = "") -> Response:
        """Send the browser to another page, which shows a sentence about what was done."""
        response = RedirectResponse(local_path(path), status_code=303)
        if said:
            text = quote(said[:MOST_SAID], errors="replace")  # with the letters that a cookie may have
            response.set_cookie(**self.console.sign_in.cookie_of(SAID_COOKIE, text, SAID_SECONDS))
        return response


def local_path(text: str | None, default: str = "/") -> str:
    """Return a path within the console, or the default: nobody is sent elsewhere by a link."""
    if not text or not text.startswith("/") or text.startswith("//") or "\\" in text or not text.isprintable():
        return default
    parts = urlsplit(text)
    return default if parts.scheme or parts.netloc else text
