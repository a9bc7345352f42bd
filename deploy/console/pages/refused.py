"""Refused requests of registered endpoints, and why a signature fails.

A request that is pasted is judged as the ingress would; nothing of it is kept.
"""

import time
from typing import Final

import redis
from starlette.responses import Response

from deploy.cli.errors import CommandError
from deploy.cli.schemes import find_scheme
from deploy.console.pages.secrets import NO_SECRETS
from deploy.console.rendering import command_line
from deploy.console.rules import Rule
from deploy.console.visit import InputError, Visit
from deploy.signatures.captured import HeadersError, decrypt_secrets, read_headers
from deploy.signatures.diagnosis import Diagnosis, diagnose
from ingress.schemes.declared import Declared
from shared import refusals
from workers.store import tenants


def list_refused(visit: Visit) -> Response:
    """Show which endpoints refuse requests, since when and with what."""
    return visit.page("refused", title="Refused", refused=read_refused(visit), command="pipeline stats", live=True)


def read_refused(visit: Visit) -> list[refusals.Refused] | None:
    """Return what ingresses have refused; None where Redis does not tell."""
    try:
        with visit.console.inbox_breaker.asking():
            return refusals.read(visit.console.inbox, visit.console.names.refusals)
    except redis.RedisError:
        return None


def show_verify(visit: Visit) -> Response:
    """Show the form into which a request is pasted."""
    return _verify_page(visit, None)


def verify(visit: Visit) -> Response:
    """Say whether a pasted request would be accepted, and if not, why not."""
    try:
        return _verify_page(visit, _diagnose(visit))
    except (InputError, CommandError) as error:
        return _verify_page(visit, None, str(error), status=400)


def _verify_page(visit: Visit, found: Diagnosis | None, problem: str | None = None, *, status: int = 200) -> Response:
    tenant, provider = visit.given("tenant") or "", visit.given("provider") or ""
    return visit.page(
        "verify",
        title="Verify a request",
        status=status,
        tenant=tenant,
        provider=provider,
        headers=visit.form.get("headers", ""),
        body=visit.form.get("body", ""),
        found=found,
        problem=problem,
        takes_secrets=visit.console.cipher is not None,
        command=command_line(
            "verify",
            f"{provider or 'PROVIDER'}/{tenant or 'TENANT'}",
            headers_file="headers.txt",
            body_file="body.json",
        ),
    )


def _diagnose(visit: Visit) -> Diagnosis:
    cipher = visit.console.cipher
    if cipher is None:
        raise InputError(NO_SECRETS)
    tenant = visit.given("tenant") or ""
    visit.require("operator", tenant)
    found = tenants.find_endpoint(visit.connection, tenant=tenant, provider=visit.given("provider") or "")
    scheme, now = find_scheme(found.scheme), time.time()
    if not isinstance(scheme, Declared):
        raise InputError("nothing is signed at this endpoint: whoever posts to its path, token included, is accepted")
    try:
        headers = read_headers(visit.form.get("headers", ""))
    except HeadersError as error:
        raise InputError(f"the text of the headers {error}") from None
    body = visit.form.get("body", "")
    # a browser sends lines of a form apart by CR LF, whatever was pasted
    sent = body if visit.given("crlf") else body.replace("\r\n", "\n")
    held = decrypt_secrets(found, cipher, now=now)
    return diagnose(scheme, held, headers=headers, body=sent.encode("utf-8", "surrogateescape"), now=now)


RULES: Final = (
    Rule(method="GET", path="/refused", role="viewer", page=list_refused),
    Rule(method="GET", path="/verify", role="operator", page=show_verify),
    Rule(method="POST", path="/verify", role="operator", page=verify),
)
ACTIONS: Final = ()
