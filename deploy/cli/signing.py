"""Requests to one endpoint, signed as its provider would sign them.

A secret of the endpoint signs, by the endpoint's own scheme. Each request is made when it is sent, so that its time is
fresh. A label that is not there and a public key, which verifies only, are refused.
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

from deploy.cli.arguments import read_secret
from deploy.cli.endpoints import path_of
from deploy.cli.errors import CommandError
from deploy.cli.registering import UNSIGNED, scheme_of
from deploy.cli.servers import cipher, database
from ingress.schemes import PRESETS
from ingress.schemes.scheme import WrongSecretError
from workers import samples
from workers.store import tenants

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from shared.registry import Secret

    Make = Callable[[], tuple[bytes, Mapping[str, str]]]


def prepare(
    tenant: str,
    provider: str,
    *,
    label: str | None = None,
    event: str | None = None,
    body_file: Path | None = None,
    secret_stdin: bool = False,
) -> tuple[str, Make]:
    """Return the path to post to, and what makes the requests.

    Args:
        tenant: of the endpoint.
        provider: of the endpoint.
        label: of the secret to sign with; None for the newest that may sign.
        event: type of made-up bodies; None for a common one.
        body_file: send these bytes instead.
        secret_stdin: sign with what is on standard input.

    Raises:
        CommandError: there is no such secret, or it cannot sign.
    """
    with database() as connection:
        endpoint = tenants.find_endpoint(connection, tenant=tenant, provider=provider)
    scheme = scheme_of(endpoint.scheme)
    if secret_stdin:
        secret = read_secret(from_stdin=True)
    else:
        chosen = _choose(endpoint.secrets, label, tenant, provider)
        secret = cipher().decrypt(chosen)
        if scheme.read_key(label=chosen.label, text=secret).public_key is not None:
            raise CommandError(
                f"{chosen.label} is a public key, which verifies and cannot sign: "
                "pipe its private key in and add --secret-stdin"
            )
    fixed = body_file.read_bytes() if body_file else None
    kind = endpoint.scheme if isinstance(endpoint.scheme, str) and provider not in PRESETS else provider

    def make() -> tuple[bytes, Mapping[str, str]]:
        body, headers = samples.sample(kind, event) if fixed is None else (fixed, {})
        agent = {"Content-Type": "application/json", "User-Agent": "pipeline-send"}
        signed = scheme.sign(secret, body, now=time.time(), event_id=f"msg_{uuid.uuid4().hex}")
        return body, agent | headers | signed

    try:
        make()
    except WrongSecretError as error:
        raise CommandError(f"this secret cannot sign: {error}") from None
    path = path_of(tenant, provider)
    return f"{path}/{secret.decode()}" if endpoint.scheme == UNSIGNED else path, make


def _choose(secrets: Sequence[Secret], label: str | None, tenant: str, provider: str) -> Secret:
    """Return the secret of that label, even an expired one, or the newest that may sign."""
    fitting = [it for it in secrets if (tenants.is_alive(it) if label is None else it.label == label)]
    if not fitting:
        which = "that may sign" if label is None else repr(label)
        raise CommandError(
            f"{tenant}'s endpoint of {provider} has no secret {which}; see `pipeline secrets list {tenant}`"
        )
    return fitting[-1]
