"""The command `pipeline verify`: would this request be accepted, and if not, why not."""

import time
from codecs import BOM_UTF8
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from deploy.cli.arguments import existing_file, moment
from deploy.cli.connections import cipher, database
from deploy.cli.errors import CommandError
from deploy.cli.output import say
from deploy.cli.schemes import find_scheme, scheme_name
from deploy.signatures.captured import Headers, HeadersError, decrypt_secrets, read_headers
from deploy.signatures.diagnosis import Diagnosis, diagnose
from ingress.schemes.declared import Declared
from shared.registry import Endpoint
from workers.store import tenants


def verify(
    endpoint: Annotated[
        str, typer.Argument(metavar="ENDPOINT", help="Its path or URL, or just PROVIDER/TENANT, such as github/acme.")
    ],
    *,
    headers_file: Annotated[Path, existing_file('The request\'s headers: lines "Name: value", or a JSON object.')],
    body_file: Annotated[Path, existing_file("The body, byte for byte as it was received.")],
    at: Annotated[
        datetime | None, typer.Option(parser=moment, metavar="TIME", help="Judge as at this date or time, not as now.")
    ] = None,
) -> None:
    """Explain why a signature fails: what was expected, and what was found by trying.

    Tells which secret was tried and what it would have signed (masked: a right signature is as good as a secret).
    Tries what usually goes wrong: a body that was parsed and written again, a newline, the wrong form of the secret,
    a missing prefix, another encoding, a stale time, another provider's scheme.
    Ends with status 1 if the ingress would refuse the request.

    Examples:
        pipeline verify github/acme --headers-file headers.txt --body-file body.json
        pipeline verify stripe/acme --headers-file h.txt --body-file b.json --at 2026-03-27T15:26
    """
    found = _find(endpoint)
    scheme, now = find_scheme(found.scheme), at.timestamp() if at else time.time()
    if not isinstance(scheme, Declared):
        raise CommandError("nothing is signed at this endpoint: whoever posts to its path, token included, is accepted")
    headers, body = _read_headers(headers_file), body_file.read_bytes()
    diagnosis = diagnose(scheme, decrypt_secrets(found, cipher(), now=now), headers=headers, body=body, now=now)
    say(diagnosis, *_lines(diagnosis, scheme_name(found.scheme), scheme.description.content))
    if diagnosis.code != "verified":
        raise typer.Exit(1)


def _find(text: str) -> Endpoint:
    """Return the endpoint of PROVIDER/TENANT, a path or a URL."""
    path = urlsplit(text).path.strip("/").removeprefix("webhooks/")
    provider, slash, rest = path.partition("/")
    tenant = rest.partition("/")[0]
    if not slash or not tenant:
        raise CommandError(f"{text!r} names no endpoint: write PROVIDER/TENANT, such as github/acme")
    with database() as connection:
        return tenants.find_endpoint(connection, tenant=tenant, provider=provider)


def _read_headers(file: Path) -> Headers:
    try:
        return read_headers(file.read_bytes().removeprefix(BOM_UTF8).decode("utf-8", "surrogateescape"))
    except HeadersError as error:
        raise CommandError(f"{file} {error}") from None


def _lines(it: Diagnosis, scheme: str, content: str) -> Iterator[str]:
    yield f"scheme         {scheme}"
    yield f"header         {it.header}: {it.given}"
    length = "cannot be put together" if it.signed_length is None else f"{it.signed_length:,} bytes"
    yield f"signed content {content}, {length}"
    for tried in it.tried:
        note = f" ({tried.note})" if tried.note else ""
        yield f"secret         {tried.label}{note}: expects {tried.expected}"
    if not it.tried:
        yield "secret         none: nothing can sign"
    yield f"verdict        {it.code}" + (f" by {it.label}" if it.label else "")
    for cause in it.causes:
        yield f"cause          {cause}"
    if not it.causes and not it.label:
        yield "cause          nothing that was tried fits: another secret signed, or the body was changed"
