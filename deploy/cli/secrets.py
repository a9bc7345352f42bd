"""The commands `pipeline secrets …`, and how a secret gets into the registry.

A secret is stored encrypted and never shown, but for a token that is made here.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from deploy.cli.arguments import Label, Provider, SecretStdin, TenantName, duration, moment
from deploy.cli.connections import cipher, database, registry_change
from deploy.cli.errors import CommandError
from deploy.cli.output import command, emit, say
from deploy.cli.schemes import UNSIGNED, check_secret, find_scheme
from deploy.cli.secret_input import read_secret
from ingress.schemes.declared import Declared
from ingress.schemes.handshakes import verify_token
from ingress.schemes.scheme import Handshake
from workers.store import tenants

if TYPE_CHECKING:
    from deploy.cli.schemes import SchemeField
    from shared.registry import Endpoint

_NEVER: Final = datetime.max.replace(tzinfo=UTC)
_EVER: Final = datetime.min.replace(tzinfo=UTC)

app: Final = typer.Typer(
    help="Secrets of an endpoint: any unexpired one may sign, so that rotation leaves no gap.", no_args_is_help=True
)


def path_of(tenant: str, provider: str) -> str:
    """Return the path that the provider is told to post to."""
    return f"/webhooks/{provider}/{tenant}"


def take_secret(
    tenant: str, provider: str, scheme: SchemeField, *, label: str, from_stdin: bool
) -> tuple[bytes, dict[str, str], list[str]]:
    """Read the secret that the provider showed, or make the token of an unsigned endpoint's path.

    Returns:
        The ciphertext; what the provider has to be told, such as the path; the same and advice in lines for people.
    """
    known, told, lines = find_scheme(scheme), {"path": path_of(tenant, provider)}, []
    makes_token = scheme == UNSIGNED and not from_stdin
    secret = secrets.token_urlsafe(32).encode() if makes_token else read_secret(from_stdin=from_stdin)
    check_secret(known, label, secret)
    if scheme == UNSIGNED:
        told["path"] += f"/{secret.decode()}"
        lines.append("nothing is signed: whoever knows this path may post; it is not shown again")
    if known.handshake is Handshake.HUB_CHALLENGE:
        told["verify_token"] = verify_token(secret)
        lines.append(f"verify token to enter beside the URL: {told['verify_token']}")
    if known.handshake is Handshake.URL_VERIFICATION:
        lines.append("the provider asks a question when the URL is entered; the ingress answers it")
    if isinstance(known, Declared) and known.description.algorithm == "hmac-sha1":
        lines.append("SHA-1 is weak: take it only for a sender that has nothing better")
    return cipher().encrypt(secret), told, lines


@command(app)
def add(tenant: TenantName, *, label: Label, provider: Provider = "moveris", secret_stdin: SecretStdin = False) -> None:
    """Add a secret beside those that an endpoint has; all of them may sign.

    To rotate: add the new secret, let the provider use it, then expire the old one.

    Examples:
        pipeline secrets add acme --label mixed-30-v2-may
        pipeline secrets expire acme mixed-30-v2 --in 24h
    """
    with registry_change() as connection:
        scheme = tenants.find_endpoint(connection, tenant=tenant, provider=provider).scheme
        ciphertext, told, lines = take_secret(tenant, provider, scheme, label=label, from_stdin=secret_stdin)
        tenants.add_secret(connection, tenant=tenant, provider=provider, label=label, ciphertext=ciphertext)
    if scheme == UNSIGNED:
        lines = [f"its path: {told['path']}", *lines]
    row = {"tenant": tenant, "provider": provider, "label": label, **told}
    say(row, f"added the secret {label} to {tenant}'s endpoint of {provider}", *lines)


@command(app, "list")
def list_(
    tenant: TenantName,
    *,
    provider: Annotated[str | None, typer.Option(help="Only of this provider's endpoint.")] = None,
) -> None:
    """List the secrets of a tenant's endpoints by label; what they are is never shown."""
    with database() as connection:
        found = tenants.list_secrets(connection, tenant=tenant, provider=provider)
    now = datetime.now(UTC)
    rows = (asdict(it) | {"may_sign": it.expires_at is None or it.expires_at > now} for it in found)
    emit(rows, "tenant", "provider", "label", "may_sign", "expires_at", "created_at")


@command(app)
def expire(
    tenant: TenantName,
    label: Annotated[str, typer.Argument(metavar="LABEL", help="The secret's label, see `pipeline secrets list`.")],
    *,
    provider: Provider = "moveris",
    after: Annotated[
        timedelta | None,
        typer.Option("--in", parser=duration, metavar="DURATION", help="Not now but after 90s, 30m, 2h or 7d."),
    ] = None,
    at: Annotated[
        datetime | None, typer.Option(parser=moment, metavar="TIME", help="Not now but at that date or time (UTC).")
    ] = None,
    even_the_last: Annotated[
        bool, typer.Option("--even-the-last", help="Do it even if no other secret may sign after it.")
    ] = False,
) -> None:
    """Let a secret verify nothing any more, now or from a time on.

    Refuses if that leaves a time when no secret of the endpoint may sign, unless --even-the-last is given.

    Examples:
        pipeline secrets expire acme mixed-30-v2
        pipeline secrets expire acme mixed-30-v2 --in 24h
    """
    if after is not None and at is not None:
        raise CommandError("--in and --at say two different times: give one of them")
    now = datetime.now(UTC)
    end = at or now + (after or timedelta())
    key = {"tenant": tenant, "provider": provider}
    with registry_change() as connection, connection.transaction():
        was = _last_expiry(tenants.find_endpoint(connection, **key))
        # This locks the registry's version: of two commands at once, the second one sees the first one's change.
        tenants.expire_secret(connection, **key, label=label, at=end)
        last = _last_expiry(tenants.find_endpoint(connection, **key))
        if last < was and now < was and not even_the_last:
            raise CommandError(
                f"nothing was changed: no other secret of {tenant}'s endpoint of {provider} may sign from "
                f"{max(last, now).isoformat(sep=' ', timespec='seconds')} on, all requests would get 401. Add one "
                f"first, with `pipeline secrets add {tenant} --provider {provider} --label …`, or add "
                "--even-the-last"
            )
    row = {**key, "label": label, "expires_at": end}
    say(row, f"{label} verifies nothing from {end.isoformat(sep=' ', timespec='seconds')} on")


def _last_expiry(endpoint: Endpoint) -> datetime:
    """Return the time from which no secret of an endpoint may sign."""
    return max((secret.expires_at or _NEVER for secret in endpoint.secrets), default=_EVER)
