"""The commands `pipeline endpoints …`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.cli.arguments import Label, Provider, SecretStdin, TenantFilter, TenantName, read_secret
from deploy.cli.errors import CommandError
from deploy.cli.output import AsJson, emit, say
from deploy.cli.servers import cipher, database, publish
from ingress.schemes import PRESETS, UnknownSchemeError, find
from ingress.schemes.verdict import WrongSecretError
from workers.store import tenants

if TYPE_CHECKING:
    from collections.abc import Mapping

app = typer.Typer(help="Endpoints: where a provider posts a tenant's events.", no_args_is_help=True)


def path_of(tenant: str, provider: str) -> str:
    """Return the path that the provider is told to post to."""
    return f"/webhooks/{provider}/{tenant}"


def check_secret(scheme: str | Mapping[str, Any], label: str, secret: bytes) -> None:
    """Refuse a secret that the scheme cannot use, before it is stored (`CommandError`)."""
    try:
        find(scheme).read_key(label=label, text=secret)
    except WrongSecretError as error:
        raise CommandError(f"{error}: give it as the provider shows it") from None


@app.command()
def add(
    tenant: TenantName,
    *,
    provider: Provider,
    label: Label,
    scheme: Annotated[
        str | None, typer.Option(help="How the provider signs; by default the scheme of the provider's name.")
    ] = None,
    secret_stdin: SecretStdin = False,
    as_json: AsJson = False,
) -> None:
    r"""Add an endpoint with the secret that the provider showed; print the path to register there.

    The secret is asked for without showing it, or read from standard input.
    It is stored encrypted with SECRETS_KEY and never shown again.
    A running ingress knows the endpoint within two seconds.

    Examples:
        pipeline endpoints add acme --provider moveris --label mixed-30-v2
        pipeline endpoints add acme --provider moveris --label mixed-30-v2 \
            --secret-stdin < secret.txt
    """
    known = _scheme(provider, scheme)
    with database() as connection:
        secret = read_secret(from_stdin=secret_stdin)
        check_secret(known, label, secret)
        ciphertext = cipher().encrypt(secret)
        tenants.add_endpoint(
            connection, tenant=tenant, provider=provider, scheme=known, label=label, ciphertext=ciphertext
        )
        publish(connection)
    path = path_of(tenant, provider)
    say(
        {"tenant": tenant, "provider": provider, "scheme": known, "label": label, "path": path},
        as_json=as_json,
        lines=[
            f"added {tenant}'s endpoint of {provider}; its secret is {label}",
            f"register this path, behind your public host, with {provider}: {path}",
        ],
    )


@app.command("list")
def list_(*, tenant: TenantFilter = None, as_json: AsJson = False) -> None:
    """List endpoints with the labels of the secrets that may sign now."""
    with database() as connection:
        found = tenants.list_endpoints(connection, tenant=tenant)
    emit(
        (_row(it, as_json=as_json) for it in found),
        as_json=as_json,
        columns=["tenant", "provider", "enabled", "scheme", "labels", "path", "created_at"],
    )


@app.command()
def disable(tenant: TenantName, *, provider: Provider, as_json: AsJson = False) -> None:
    """Answer an endpoint's requests as if it did not exist (404); what is stored is still handled."""
    with database() as connection:
        tenants.disable_endpoint(connection, tenant=tenant, provider=provider)
        publish(connection)
    say(
        {"tenant": tenant, "provider": provider, "enabled": False},
        as_json=as_json,
        lines=[f"disabled {path_of(tenant, provider)}: it answers 404 from now on"],
    )


@app.command()
def enable(tenant: TenantName, *, provider: Provider, as_json: AsJson = False) -> None:
    """Take a disabled endpoint back into service."""
    with database() as connection:
        tenants.enable_endpoint(connection, tenant=tenant, provider=provider)
        publish(connection)
    say(
        {"tenant": tenant, "provider": provider, "enabled": True},
        as_json=as_json,
        lines=[f"enabled {path_of(tenant, provider)}"],
    )


def _scheme(provider: str, scheme: str | None) -> str:
    """Return the name of a scheme that the ingress knows."""
    name = provider if scheme is None else scheme
    try:
        find(name)
    except UnknownSchemeError:
        asked = f"{provider} has no scheme of its own, choose one with --scheme" if scheme is None else "choose another"
        raise CommandError(f"no signature scheme {name!r}: {asked} ({', '.join(sorted(PRESETS))})") from None
    return name


def _row(endpoint: tenants.EndpointSummary, *, as_json: bool) -> dict[str, Any]:
    row = asdict(endpoint) | {"path": path_of(endpoint.tenant, endpoint.provider)}
    return row if as_json else row | {"labels": ", ".join(endpoint.labels) or "none: nothing can sign"}
