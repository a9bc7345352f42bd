"""Signing in and out."""

from typing import Final

from starlette.responses import Response

from deploy.console.rules import Rule
from deploy.console.sign_in import LimitedError, SignInError
from deploy.console.visit import Visit, local_path


def show(visit: Visit) -> Response:
    """Show the form."""
    if visit.visitor is not None:
        return visit.go(local_path(visit.given("back")))
    return _form(visit)


def sign_in(visit: Visit) -> Response:
    """Begin a session."""
    name, password = visit.given("name") or "", visit.form.get("password", "")
    try:
        token = visit.console.sign_in.sign_in(visit.connection, visit.request, name, password)
    except LimitedError as error:
        return _form(visit, str(error), status=429)
    except SignInError as error:
        return _form(visit, str(error), status=403)
    response = visit.go(local_path(visit.given("back")))
    response.set_cookie(**visit.console.sign_in.cookie(token))
    response.set_cookie(**visit.console.sign_in.browser_cookie(visit.connection, name))
    return response


def sign_out(visit: Visit) -> Response:
    """End the session."""
    if visit.visitor is not None:
        visit.console.sign_in.sign_out(visit.connection, visit.visitor)
    response = visit.go("/sign-in")
    response.set_cookie(**visit.console.sign_in.cookie(""))
    return response


def _form(visit: Visit, problem: str | None = None, *, status: int = 200) -> Response:
    return visit.page("sign_in", title="Sign in", status=status, problem=problem, back=local_path(visit.given("back")))


RULES: Final = (
    Rule(method="GET", path="/sign-in", role=None, page=show),
    Rule(method="POST", path="/sign-in", role=None, page=sign_in),
    Rule(method="POST", path="/sign-out", role="viewer", page=sign_out),
)
