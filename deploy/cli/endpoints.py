"""The commands `pipeline endpoints …`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.cli.arguments import (  # noqa: TC001 - the same
    Label,
    Provider,
    SecretStdin,
    TenantFilter,
    TenantName,
)
from deploy.cli.errors import CommandError
from deploy.cli.output import AsJson, emit, say
from deploy.cli.registering import UNSIGNED, check_secret, choose_scheme, name_of, take_secret
from deploy.cli.servers import cipher, database, publish
from shared.settings import SettingError
from workers.store import tenants

if TYPE_CHECKING:
    from workers.store.connect import Connection

app = typer.Typer(help="Endpoints: where a provider posts a tenant's events.", no_args_is_help=True)

SchemeName = Annotated[
    str | None, typer.Option("--scheme", help="How the provider signs; by default the scheme of the provider's name.")
]
SchemeFile = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, readable=True, help="A TOML file that describes how the provider signs."),
]
Unsigned = Annotated[
    bool,
    typer.Option("--i-know-this-is-unsigned", help="With --scheme none: a random token in the path is the secret."),
]


def path_of(tenant: str, provider: str) -> str:
    """Return the path that the provider is told to post to."""
    return f"/webhooks/{provider}/{tenant}"


@app.command()
def add(
    tenant: TenantName,
    *,
    provider: Provider,
    label: Label,
    scheme: SchemeName = None,
    scheme_file: SchemeFile = None,
    i_know_this_is_unsigned: Unsigned = False,
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
        pipeline endpoints add acme --provider openai --scheme standard-webhooks --label main
        pipeline endpoints add acme --provider billing --scheme-file billing.toml --label main
    """
    known = choose_scheme(provider, scheme=scheme, scheme_file=scheme_file, is_unsigned=i_know_this_is_unsigned)
    with database() as connection:
        made = take_secret(path_of(tenant, provider), known, label=label, from_stdin=secret_stdin)
        ciphertext = cipher().encrypt(made.secret)
        tenants.add_endpoint(
            connection, tenant=tenant, provider=provider, scheme=known, label=label, ciphertext=ciphertext
        )
        publish(connection)
    say(
        {"tenant": tenant, "provider": provider, "scheme": known, "label": label, **made.told},
        as_json=as_json,
        lines=[
            f"added {tenant}'s endpoint of {provider}; its secret is {label}",
            f"register this path, behind your public host, with {provider}: {made.path}",
            *made.lines,
        ],
    )


@app.command()
def change(
    tenant: TenantName,
    *,
    provider: Provider,
    scheme: SchemeName = None,
    scheme_file: SchemeFile = None,
    as_json: AsJson = False,
) -> None:
    """Change how an endpoint's provider signs; its secrets stay.

    Example:
        pipeline endpoints change acme --provider billing --scheme-file billing.toml
    """
    if scheme is None and scheme_file is None:
        raise CommandError("nothing to change: give --scheme or --scheme-file")
    known = choose_scheme(provider, scheme=scheme, scheme_file=scheme_file, is_unsigned=False)
    with database() as connection:
        endpoint = tenants.find_endpoint(connection, tenant=tenant, provider=provider)
        if endpoint.scheme == UNSIGNED:
            raise CommandError("the secrets of an unsigned endpoint are parts of its path: add an endpoint instead")
        for secret in filter(tenants.is_alive, endpoint.secrets):
            check_secret(known, secret.label, cipher().decrypt(secret))
        tenants.change_scheme(connection, tenant=tenant, provider=provider, scheme=known)
        publish(connection)
    say(
        {"tenant": tenant, "provider": provider, "scheme": known},
        as_json=as_json,
        lines=[f"{tenant}'s endpoint of {provider} now expects {name_of(known)}"],
    )


@app.command("list")
def list_(*, tenant: TenantFilter = None, as_json: AsJson = False) -> None:
    """List endpoints with the labels of the secrets that may sign now.

    A secret that no key of SECRETS_KEY opens is marked: its events are answered 503.
    """
    with database() as connection:
        found = tenants.list_endpoints(connection, tenant=tenant)
        unreadable = _find_unreadable(connection)
    emit(
        (_row(it, unreadable, as_json=as_json) for it in found),
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


def _find_unreadable(connection: Connection) -> set[tuple[str, str, str]] | None:
    """Return tenant, provider and label of the secrets that cannot be decrypted; None if there is no SECRETS_KEY."""
    try:
        decrypts = cipher()
    except SettingError:
        return None
    _, endpoints = tenants.read_registry(connection)
    return {
        (endpoint.tenant, endpoint.provider, secret.label)
        for endpoint in endpoints
        for secret in endpoint.secrets
        if not decrypts.opens(secret)
    }


def _row(
    endpoint: tenants.EndpointSummary, unreadable: set[tuple[str, str, str]] | None, *, as_json: bool
) -> dict[str, Any]:
    token = "/TOKEN" if endpoint.scheme == UNSIGNED else ""
    closed = [it for it in endpoint.labels if (endpoint.tenant, endpoint.provider, it) in (unreadable or ())]
    row = asdict(endpoint) | {
        "path": path_of(endpoint.tenant, endpoint.provider) + token,
        "unreadable": None if unreadable is None else closed,
    }
    if as_json:
        return row
    labels = ", ".join(f"{it} (no key of SECRETS_KEY opens it: 503)" if it in closed else it for it in endpoint.labels)
    return row | {"labels": labels or "none: nothing can sign", "scheme": name_of(endpoint.scheme)}
