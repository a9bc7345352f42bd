"""The commands `pipeline secrets …`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from deploy.cli.arguments import Label, Provider, SecretStdin, TenantName, duration, moment
from deploy.cli.endpoints import path_of
from deploy.cli.errors import CommandError
from deploy.cli.output import AsJson, emit, say
from deploy.cli.registering import take_secret
from deploy.cli.servers import cipher, database, publish
from workers.store import tenants

if TYPE_CHECKING:
    from shared.registry import Endpoint

_NEVER: Final = datetime.max.replace(tzinfo=UTC)
_EVER: Final = datetime.min.replace(tzinfo=UTC)

app = typer.Typer(
    help="Secrets of an endpoint: any unexpired one may sign, so that rotation leaves no gap.", no_args_is_help=True
)


@app.command()
def add(
    tenant: TenantName,
    *,
    label: Label,
    provider: Provider = "moveris",
    secret_stdin: SecretStdin = False,
    as_json: AsJson = False,
) -> None:
    """Add a secret beside those that an endpoint has; all of them may sign.

    To rotate: add the new secret, let the provider use it, then expire the old one.

    Examples:
        pipeline secrets add acme --label mixed-30-v2-may
        pipeline secrets expire acme mixed-30-v2 --in 24h
    """
    with database() as connection:
        endpoint = tenants.find_endpoint(connection, tenant=tenant, provider=provider)
        made = take_secret(path_of(tenant, provider), endpoint.scheme, label=label, from_stdin=secret_stdin)
        ciphertext = cipher().encrypt(made.secret)
        tenants.add_secret(connection, tenant=tenant, provider=provider, label=label, ciphertext=ciphertext)
        publish(connection)
    say(
        {"tenant": tenant, "provider": provider, "label": label, **made.told},
        as_json=as_json,
        lines=[
            f"added the secret {label} to {tenant}'s endpoint of {provider}",
            *([f"its path: {made.path}"] if made.path != path_of(tenant, provider) else []),
            *made.lines,
        ],
    )


@app.command("list")
def list_(
    tenant: TenantName,
    *,
    provider: Annotated[str | None, typer.Option(help="Only of this provider's endpoint.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the secrets of a tenant's endpoints by label; what they are is never shown."""
    with database() as connection:
        found = tenants.list_secrets(connection, tenant=tenant, provider=provider)
    now = datetime.now(UTC)
    emit(
        (asdict(it) | {"may_sign": it.expires_at is None or it.expires_at > now} for it in found),
        as_json=as_json,
        columns=["tenant", "provider", "label", "may_sign", "expires_at", "created_at"],
    )


@app.command()
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
    as_json: AsJson = False,
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
    with database() as connection:
        with connection.transaction():
            before = tenants.find_endpoint(connection, tenant=tenant, provider=provider)
            # The registry's version is locked from here on, so that of two commands at once the second one sees the
            # first one's change.
            tenants.expire_secret(connection, tenant=tenant, provider=provider, label=label, at=end)
            changed = tenants.find_endpoint(connection, tenant=tenant, provider=provider)
            last, was = _last_expiry(changed), _last_expiry(before)
            if last < was and now < was and not even_the_last:
                raise CommandError(
                    f"nothing was changed: no other secret of {tenant}'s endpoint of {provider} may sign from "
                    f"{max(last, now).isoformat(sep=' ', timespec='seconds')} on, all requests would get 401. Add one "
                    f"first, with `pipeline secrets add {tenant} --provider {provider} --label …`, or add "
                    "--even-the-last"
                )
        publish(connection)
    say(
        {"tenant": tenant, "provider": provider, "label": label, "expires_at": end},
        as_json=as_json,
        lines=[f"{label} verifies nothing from {end.isoformat(sep=' ', timespec='seconds')} on"],
    )


def _last_expiry(endpoint: Endpoint) -> datetime:
    """Return the time from which no secret of an endpoint may sign."""
    return max((secret.expires_at or _NEVER for secret in endpoint.secrets), default=_EVER)
