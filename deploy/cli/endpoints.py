"""The commands `pipeline endpoints …`."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from deploy.cli.arguments import Label, Limit, Prefix, Provider, SecretStdin, TenantFilter, TenantName, existing_file
from deploy.cli.connections import cipher, database, registry_change
from deploy.cli.errors import CommandError
from deploy.cli.output import command, emit, say
from deploy.cli.schemes import UNSIGNED, check_secret, choose_scheme, find_scheme, scheme_name
from deploy.cli.secrets import path_of, take_secret
from shared.settings import SettingError
from workers.store import tenants
from workers.store.connect import Connection

app: Final = typer.Typer(help="Endpoints: where a provider posts a tenant's events.", no_args_is_help=True)

_LAST: Final = "~"  # after the names of all providers
SchemeName = Annotated[
    str | None, typer.Option("--scheme", help="How the provider signs; by default the scheme of the provider's name.")
]
SchemeFile = Annotated[Path | None, existing_file("A TOML file that describes how the provider signs.")]


@command(app, changes=True)
def add(
    tenant: TenantName,
    *,
    provider: Provider,
    label: Label,
    scheme: SchemeName = None,
    scheme_file: SchemeFile = None,
    i_know_this_is_unsigned: Annotated[
        bool,
        typer.Option("--i-know-this-is-unsigned", help="With --scheme none: a random token in the path is the secret."),
    ] = False,
    secret_stdin: SecretStdin = False,
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
    known = choose_scheme(provider, scheme, scheme_file, is_unsigned=i_know_this_is_unsigned)
    key = {"tenant": tenant, "provider": provider}
    with registry_change() as connection:
        ciphertext, told, lines = take_secret(tenant, provider, known, label=label, from_stdin=secret_stdin)
        tenants.add_endpoint(connection, **key, scheme=known, label=label, ciphertext=ciphertext)
    say(
        {**key, "scheme": known, "label": label, **told},
        f"added {tenant}'s endpoint of {provider}; its secret is {label}",
        f"register this path, behind your public host, with {provider}: {told['path']}",
        *lines,
    )


@command(app, changes=True)
def change(
    tenant: TenantName, *, provider: Provider, scheme: SchemeName = None, scheme_file: SchemeFile = None
) -> None:
    """Change how an endpoint's provider signs; its secrets stay.

    Example:
        pipeline endpoints change acme --provider billing --scheme-file billing.toml
    """
    if scheme is None and scheme_file is None:
        raise CommandError("nothing to change: give --scheme or --scheme-file")
    known = choose_scheme(provider, scheme, scheme_file, is_unsigned=False)
    key = {"tenant": tenant, "provider": provider}
    with registry_change() as connection:
        endpoint = tenants.find_endpoint(connection, **key)
        if endpoint.scheme == UNSIGNED:
            raise CommandError("the secrets of an unsigned endpoint are parts of its path: add an endpoint instead")
        for secret in filter(tenants.is_alive, endpoint.secrets):
            check_secret(find_scheme(known), secret.label, cipher().decrypt(secret))
        tenants.change_scheme(connection, **key, scheme=known)
    say({**key, "scheme": known}, f"{tenant}'s endpoint of {provider} now expects {scheme_name(known)}")


@command(app, "list")
def list_(
    *,
    tenant: TenantFilter = None,
    prefix: Prefix = None,
    after: Annotated[
        str | None, typer.Option(metavar="TENANT/PROVIDER", help="Go on after this one, or after all of a tenant.")
    ] = None,
    limit: Limit = 200,
) -> None:
    """List endpoints by tenant, with the labels of the secrets that may sign now.

    A secret that no key of SECRETS_KEY opens is marked: its events are answered 503.

    Examples:
        pipeline endpoints list --tenant acme
        pipeline endpoints list --limit 100000 --json
    """
    name, _, provider = (after or "").partition("/")
    with database(read_only=True) as connection:
        found = tenants.list_endpoints(
            connection,
            tenant=tenant,
            prefix=prefix,
            after=(name, provider or _LAST) if after else None,
            limit=limit + 1,
        )
        listed = found[:limit]
        unreadable = _find_unreadable(connection, listed)
        rows = [_row(it, unreadable) for it in listed]
    emit(rows, "tenant", "provider", "enabled", "scheme", "labels", "path", "created_at", shown=_shown)
    if len(found) > limit:
        last = f"{listed[-1].tenant}/{listed[-1].provider}"
        print(f"pipeline: there are more: --after {last} goes on, --limit shows more", file=sys.stderr)


@command(app, changes=True)
def disable(tenant: TenantName, *, provider: Provider) -> None:
    """Answer an endpoint's requests as if it did not exist (404); what is stored is still handled."""
    with registry_change() as connection:
        tenants.disable_endpoint(connection, tenant=tenant, provider=provider)
    row = {"tenant": tenant, "provider": provider, "enabled": False}
    say(row, f"disabled {path_of(tenant, provider)}: it answers 404 from now on")


@command(app, changes=True)
def enable(tenant: TenantName, *, provider: Provider) -> None:
    """Take a disabled endpoint back into service."""
    with registry_change() as connection:
        tenants.enable_endpoint(connection, tenant=tenant, provider=provider)
    say({"tenant": tenant, "provider": provider, "enabled": True}, f"enabled {path_of(tenant, provider)}")


def _find_unreadable(
    connection: Connection, listed: Sequence[tenants.EndpointSummary]
) -> set[tuple[str, str, str]] | None:
    """Return tenant, provider and label of their secrets that cannot be decrypted; None if there is no SECRETS_KEY."""
    try:
        keys = cipher()
    except SettingError:
        return None
    return {
        (it.tenant, it.provider, secret.label)
        for it in tenants.find_endpoints(connection, [(it.tenant, it.provider) for it in listed])
        for secret in it.secrets
        if not keys.can_decrypt(secret)
    }


def _row(it: tenants.EndpointSummary, unreadable: set[tuple[str, str, str]] | None) -> dict[str, Any]:
    token = "/TOKEN" if it.scheme == UNSIGNED else ""
    closed = None if unreadable is None else [one for one in it.labels if (it.tenant, it.provider, one) in unreadable]
    return asdict(it) | {"path": path_of(it.tenant, it.provider) + token, "unreadable": closed}


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    closed = row["unreadable"] or ()
    labels = [f"{it} (no key of SECRETS_KEY opens it: 503)" if it in closed else it for it in row["labels"]]
    return row | {"labels": labels or "none: nothing can sign", "scheme": scheme_name(row["scheme"])}
