"""Requests to one endpoint, signed as its provider would sign them, with a secret of the endpoint and a fresh time."""

import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from deploy.cli.connections import cipher, database
from deploy.cli.errors import CommandError
from deploy.cli.schemes import UNSIGNED, find_scheme
from deploy.cli.secret_input import read_secret
from deploy.cli.secrets import path_of
from ingress.schemes import PRESETS, Scheme
from ingress.schemes.scheme import WrongSecretError
from shared.registry import Endpoint
from workers import samples
from workers.store import tenants


def prepare_requests(
    tenant: str,
    provider: str,
    *,
    label: str | None = None,
    event: str | None = None,
    body_file: Path | None = None,
    secret_stdin: bool = False,
) -> tuple[str, Callable[[], tuple[bytes, Mapping[str, str]]]]:
    """Return the path to post to, and what makes the body and headers of each request.

    Args:
        tenant: of the endpoint.
        provider: of the endpoint.
        label: of the secret to sign with; None for the newest that may sign.
        event: type of made-up bodies; None for a common one.
        body_file: send these bytes instead.
        secret_stdin: sign with what is on standard input.
    """
    with database() as connection:
        endpoint = tenants.find_endpoint(connection, tenant=tenant, provider=provider)
    scheme = find_scheme(endpoint.scheme)
    secret = read_secret(from_stdin=True) if secret_stdin else _decrypt(endpoint, scheme, label)
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


def _decrypt(endpoint: Endpoint, scheme: Scheme, label: str | None) -> bytes:
    """Return the secret of that label, even an expired one, or the newest that may sign."""
    fitting = [it for it in endpoint.secrets if (tenants.is_alive(it) if label is None else it.label == label)]
    if not fitting:
        which = "that may sign" if label is None else repr(label)
        raise CommandError(
            f"{endpoint.tenant}'s endpoint of {endpoint.provider} has no secret {which}; "
            f"see `pipeline secrets list {endpoint.tenant}`"
        )
    secret = cipher().decrypt(fitting[-1])
    if scheme.read_key(label=fitting[-1].label, text=secret).public_key is not None:
        raise CommandError(
            f"{fitting[-1].label} is a public key, which verifies and cannot sign: "
            "pipe its private key in and add --secret-stdin"
        )
    return secret
