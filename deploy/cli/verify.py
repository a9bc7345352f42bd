"""The command `pipeline verify`: would this request be accepted, and if not, why not."""

import json
import time
from codecs import BOM_UTF8
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from deploy.cli.arguments import existing_file, moment
from deploy.cli.connections import cipher, database
from deploy.cli.errors import CommandError
from deploy.cli.output import say
from deploy.cli.schemes import find_scheme, scheme_name
from deploy.cli.signature_diagnosis import Diagnosis, diagnose
from deploy.cli.signature_mistakes import EndpointSecret
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
    diagnosis = diagnose(scheme, _hold(found, now), headers=headers, body=body, now=now)
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


def _hold(endpoint: Endpoint, now: float) -> list[EndpointSecret]:
    """Decrypt all secrets, those that may not sign too: one of them may be the one that did."""
    at = datetime.fromtimestamp(now, UTC)
    notes = ["" if tenants.is_alive(it, at) else f"expired since {it.expires_at}" for it in endpoint.secrets]
    return [
        EndpointSecret(label=it.label, text=cipher().decrypt(it), note=note)
        for it, note in zip(endpoint.secrets, notes, strict=True)
    ]


def _read_headers(file: Path) -> list[tuple[bytes, bytes]]:
    """Read headers as curl, proxies and browsers show them; a request line and marks before lines are left out."""
    text = file.read_bytes().removeprefix(BOM_UTF8).decode("utf-8", "surrogateescape")
    if text.lstrip().startswith("{"):
        try:
            pairs = [(name, str(value)) for name, value in json.loads(text).items()]
        except ValueError as error:
            raise CommandError(f"{file} is no JSON object of headers: {error}") from None
    else:
        lines = (line.strip().removeprefix("> ").removeprefix("< ") for line in text.splitlines())
        pairs = [(name, value) for name, colon, value in (line.partition(":") for line in lines) if colon]
    if not pairs:
        raise CommandError(f'{file} holds no headers: write one a line, as "X-Signature: sha256=..."')
    return [(_bytes(name.lower()), _bytes(value)) for name, value in pairs if " " not in name.strip()]


def _bytes(text: str) -> bytes:
    return text.strip().encode("utf-8", "surrogateescape")


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
