"""What happens with every request before and after its page.

1. Check that a request is meant for this console, and that a POST comes from its own pages.
2. Read the form of a POST, bounded, once it is known who sends it: a stranger can make the console hold a few kB.
3. Find out who asks; without a session they are sent to sign in.
4. Check the role that the table of routes asks for, and the token of a form.
5. Lend a connection; a change is made in that person's name, with the reason they gave.
6. Run the page in a thread, and turn what it refuses into a page.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from deploy.cli.errors import CommandError, explain
from deploy.console.database import CHANGE_SECONDS, READ_SECONDS, BusyError, Database
from deploy.console.rendering import url
from deploy.console.rules import Rule
from deploy.console.sign_in import is_refresh
from deploy.console.visit import Console, ForbiddenError, InputError, NotFoundError, Visit
from workers.store import audit
from workers.store.connect import TIMED_OUT, UNREACHABLE
from workers.store.refusals import (
    RefusedError,
    UnknownEndpointError,
    UnknownPersonError,
    UnknownSecretError,
    UnknownTenantError,
)

log: Final = logging.getLogger(__name__)
MOST_FORM_BYTES: Final = 4 * 1024 * 1024
"""Of a posted form: a request that is pasted to be verified is the largest."""
MOST_STRANGERS_BYTES: Final = 16 * 1024
"""Of a form of somebody who has not signed in."""
MOST_FIELDS: Final = 1000
MOST_WHY: Final = 500
FAILED: Final = "this page has failed; the log of the console says why"
_CHANGES: Final = {"POST"}
_STATUSES: Final = {
    404: (NotFoundError, UnknownTenantError, UnknownEndpointError, UnknownSecretError, UnknownPersonError),
    403: (ForbiddenError,),
    400: (InputError, RefusedError, CommandError),
}
"""What a page refuses; the first family that fits."""

Endpoint = Callable[[Request], Awaitable[Response]]


def endpoint(console: Console, database: Database, rule: Rule) -> Endpoint:
    """Return what Starlette calls for a rule."""

    async def respond(request: Request) -> Response:
        if not console.sign_in.check_origin(request):
            return PlainTextResponse("this request does not come from the console's own pages", status_code=403)
        if request.method not in _CHANGES:
            return await run_in_threadpool(_respond, console, database, rule, request, {})
        try:
            most = MOST_FORM_BYTES
            if not await run_in_threadpool(_is_known, console, database, request):
                if rule.role is not None:
                    return _to_sign_in()
                most = MOST_STRANGERS_BYTES
            form = await _read_form(request, most)
        except (InputError, ClientDisconnect) as error:
            return PlainTextResponse(str(error), status_code=413)
        except Exception as error:  # noqa: BLE001 - whatever it is, the answer is a page
            return _away(console, error)
        return await run_in_threadpool(_respond, console, database, rule, request, form)

    return respond


def _is_known(console: Console, database: Database, request: Request) -> bool:
    with database.connection(seconds=READ_SECONDS) as connection:
        return console.sign_in.identify(connection, request) is not None


async def _read_form(request: Request, most: int) -> dict[str, str]:
    """Return the fields of a posted form; of several of a name, the last. Raises InputError."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise InputError(f"more than {most:,} bytes were posted")
    try:
        return dict(
            parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="replace", max_num_fields=MOST_FIELDS)
        )
    except ValueError:
        raise InputError("what was posted is no form") from None


def _respond(console: Console, database: Database, rule: Rule, request: Request, form: dict[str, str]) -> Response:
    seconds = CHANGE_SECONDS if request.method in _CHANGES else READ_SECONDS
    try:
        with database.connection(seconds=seconds) as connection:
            visitor = console.sign_in.identify(connection, request)
            visit = Visit(console=console, request=request, visitor=visitor, connection=connection, form=form)
            response = _answer(visit, rule)
            if visitor is not None and visitor.is_new:
                response.set_cookie(**console.sign_in.cookie(visitor.session))
            return response
    except Exception as error:  # noqa: BLE001 - the same
        return _away(console, error)


def _answer(visit: Visit, rule: Rule) -> Response:
    """Return the page, or why there is none."""
    try:
        return _stop(visit, rule) or rule.page(visit)
    except UNREACHABLE as error:
        if isinstance(error, TIMED_OUT):
            return _problem(visit, 503, "this took longer than a page may: narrow it, by a tenant or a time")
        raise  # so that its connection is closed: the next page opens one to whoever is the primary then
    except Exception as error:
        for status, families in _STATUSES.items():
            if isinstance(error, families):
                return _problem(visit, status, str(error))
        line = explain(error)
        if line is not None:
            return _problem(visit, 503, line)
        log.exception("a page failed", extra={"code": "internal_error", "path": visit.request.url.path})
        return _problem(visit, 500, FAILED)


def _stop(visit: Visit, rule: Rule) -> Response | None:
    """Return why this person gets no further; None if they do, in whose name changes are made from here on.

    Raises:
        ForbiddenError: their role is below what the route asks for, or the form is not of this session.
        InputError: a value holds what Postgres cannot store, or the reason is too long.
    """
    visitor, request = visit.visitor, visit.request
    given = (request.path_params, request.query_params, visit.form)
    if any("\0" in text for values in given for text in values.values()):
        raise InputError("there is a character in it that cannot be stored (NUL): leave it out")
    if rule.role is None:
        return None
    if visitor is None:
        if is_refresh(request):
            return PlainTextResponse("signed out", status_code=401)
        return _to_sign_in(visit.here)
    if not visitor.person.has_role(rule.role):
        raise ForbiddenError(f"this needs the role {rule.role}; {visitor.person.name} is {visitor.person.role}")
    if request.method in _CHANGES:
        if not visit.console.sign_in.check_token(visitor, visit.form.get("token", "")):
            raise ForbiddenError("this form is too old: go back, load the page again and repeat it")
        why = visit.given("why")
        if why is not None and len(why) > MOST_WHY:
            raise InputError(f"the reason is longer than {MOST_WHY} characters, and is kept for ever: shorten it")
        audit.act_as(visit.connection, visitor.person.name, why)
    return None


def _problem(visit: Visit, status: int, text: str) -> Response:
    return visit.page(
        "problem", title="Not done" if visit.request.method in _CHANGES else "No page", status=status, text=text
    )


def _to_sign_in(back: str = "/") -> Response:
    return RedirectResponse(url("/sign-in", back=None if back == "/" else back), status_code=303)


def _away(console: Console, error: Exception) -> Response:
    """Return a page that needs no database, where it is not even known who asks."""
    text = "the console is busy: try again in a moment" if isinstance(error, BusyError) else explain(error)
    status = 503
    if isinstance(error, UNREACHABLE):  # what it says names hosts and roles, and a stranger may be reading
        log.warning("a page had no database: %s", text or error, extra={"code": "postgres_away"})
        text = "Postgres cannot be reached, or refuses; the log of the console says why"
    if text is None:
        log.error("a page failed", exc_info=error, extra={"code": "internal_error"})
        text, status = FAILED, 500
    found = console.templates.get_template("away.html").render(text=text)
    return Response(found, status_code=status, media_type="text/html", headers={"Retry-After": "2"})
