"""The command `pipeline verify`: would this request be accepted, and if not, why not."""

from __future__ import annotations

import json
import time
from codecs import BOM_UTF8
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path  # noqa: TC003 - typer evaluates signatures
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from deploy.cli.arguments import moment
from deploy.cli.diagnosis import Diagnosis, describe, diagnose
from deploy.cli.errors import CommandError
from deploy.cli.output import AsJson, emit
from deploy.cli.registering import UNSIGNED, name_of, scheme_of
from deploy.cli.servers import cipher, database
from deploy.cli.trials import Held
from workers.store import tenants

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from shared.registry import Endpoint

    Headers = list[tuple[bytes, bytes]]


def verify(
    endpoint: Annotated[
        str, typer.Argument(metavar="ENDPOINT", help="Its path or URL, or just PROVIDER/TENANT, such as github/acme.")
    ],
    *,
    headers_file: Annotated[
        Path,
        typer.Option(
            exists=True,
            dir_okay=False,
            readable=True,
            help='The request\'s headers: lines "Name: value", or a JSON object.',
        ),
    ],
    body_file: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, readable=True, help="The body, byte for byte as it was received."),
    ],
    at: Annotated[
        datetime | None, typer.Option(parser=moment, metavar="TIME", help="Judge as at this date or time, not as now.")
    ] = None,
    as_json: AsJson = False,
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
    if found.scheme == UNSIGNED:
        raise CommandError("nothing is signed at this endpoint: whoever posts to its path, token included, is accepted")
    scheme = scheme_of(found.scheme)
    now = at.timestamp() if at else time.time()
    diagnosis = diagnose(
        scheme, _hold(found, now), headers=_read_headers(headers_file), body=body_file.read_bytes(), now=now
    )
    if as_json:
        emit([asdict(diagnosis)], as_json=True, columns=[])
    else:
        _print(diagnosis, name_of(found.scheme), describe(scheme).content)
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


def _hold(endpoint: Endpoint, now: float) -> list[Held]:
    """Decrypt all secrets, those that may not sign too: one of them may be the one that did."""
    held = []
    for secret in endpoint.secrets:
        expired = (
            "" if tenants.is_alive(secret, datetime.fromtimestamp(now, UTC)) else f"expired since {secret.expires_at}"
        )
        held.append(Held(label=secret.label, text=cipher().decrypt(secret), note=expired))
    return held


def _read_headers(file: Path) -> Headers:
    """Read headers as curl, proxies and browsers show them; a request line and marks before lines are left out."""
    text = file.read_bytes().removeprefix(BOM_UTF8).decode("utf-8", "surrogateescape")
    if text.lstrip().startswith("{"):
        try:
            pairs = list(_object(json.loads(text)).items())
        except ValueError as error:
            raise CommandError(f"{file} is no JSON object of headers: {error}") from None
    else:
        lines = (line.strip().removeprefix("> ").removeprefix("< ") for line in text.splitlines())
        pairs = [(name, value) for name, colon, value in (line.partition(":") for line in lines) if colon]
    if not pairs:
        raise CommandError(f'{file} holds no headers: write one a line, as "X-Signature: sha256=..."')
    return [
        (_bytes(name.strip().lower()), _bytes(str(value).strip())) for name, value in pairs if " " not in name.strip()
    ]


def _object(tree: Any) -> Mapping[str, Any]:
    if not isinstance(tree, dict):
        raise ValueError("it begins like one")  # noqa: TRY004 - what json.loads raises too
    return tree


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _print(it: Diagnosis, scheme: str, content: str) -> None:
    print(f"scheme         {scheme}")
    print(f"header         {it.header}: {it.given}")
    length = "cannot be put together" if it.signed_length is None else f"{it.signed_length:,} bytes"
    print(f"signed content {content}, {length}")
    for tried in it.tried:
        note = f" ({tried.note})" if tried.note else ""
        print(f"secret         {tried.label}{note}: expects {tried.expected}")
    if not it.tried:
        print("secret         none: nothing can sign")
    print(f"verdict        {it.code}" + (f" by {it.label}" if it.label else ""))
    for cause in it.causes:
        print(f"cause          {cause}")
    if not it.causes and not it.label:
        print("cause          nothing that was tried fits: another secret signed, or the body was changed")
