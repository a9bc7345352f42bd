"""The commands `pipeline secrets …`, and how a secret gets into the registry.

A secret is stored encrypted and never shown, but for a token that is made here.
"""

import secrets
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer

from deploy.cli.arguments import Label, Provider, SecretStdin, TenantName, duration, moment
from deploy.cli.connections import cipher, database, registry_change
from deploy.cli.errors import CommandError
from deploy.cli.output import command, emit, say, wants_json
from deploy.cli.schemes import UNSIGNED, SchemeField, check_secret, find_scheme
from deploy.cli.secret_input import read_secret
from ingress.schemes.declared import Declared
from ingress.schemes.handshakes import verify_token
from ingress.schemes.scheme import Handshake
from shared.registry import Endpoint, Secret
from workers.store import tenants
from workers.store.connect import Connection

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


@command(app, changes=True)
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


@command(app, changes=True)
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
        before = tenants.find_endpoint(connection, **key)
        # This locks the registry's version: of two commands at once, the second one sees the first one's change.
        tenants.expire_secret(connection, **key, label=label, at=end)
        if not even_the_last:
            require_another(before, tenants.find_endpoint(connection, **key))
    row = {**key, "label": label, "expires_at": end}
    say(row, f"{label} verifies nothing from {end.isoformat(sep=' ', timespec='seconds')} on")


@command(app)
def check() -> None:
    """Name the secrets for which a key other than the first of SECRETS_KEY is still needed, or that none opens.

    Exit code 1 if there are any: until then, no key may leave SECRETS_KEY.
    """
    with database() as connection:
        left = _not_by_first_key(connection)
    if not left and not wants_json():
        print("every secret is encrypted with the first key of SECRETS_KEY: the others are not needed")
        return
    rows = (dict(zip(("tenant", "provider", "label"), name, strict=True)) | {"key": key} for name, _, key in left)
    emit(rows, "tenant", "provider", "label", "key", shown=lambda row: row | {"key": row["key"] or "none opens it"})
    if left:
        raise typer.Exit(1)


@command(app, changes=True)
def reencrypt() -> None:
    """Encrypt every secret with the first key of SECRETS_KEY, so that the others can be taken out.

    Before it, put the new key in front, the old one after a comma, for all ingresses and whoever runs commands.

    Examples:
        export SECRETS_KEY=$(pipeline keygen),$SECRETS_KEY
        pipeline secrets reencrypt
    """
    keys = cipher()
    with registry_change() as connection:
        old = [(name, secret) for name, secret, key in _not_by_first_key(connection) if key]
        changes = {name: (secret.ciphertext, keys.reencrypt(secret)) for name, secret in old}
        count = tenants.replace_ciphertexts(connection, changes) if changes else 0
        left = _not_by_first_key(connection)
    advice = "see `pipeline secrets check`" if left else "SECRETS_KEY needs its first key only"
    say({"reencrypted": count, "left": len(left)}, f"encrypted {count} secrets with the first key; {advice}")
    if left:
        names = ", ".join(f"{tenant}'s {provider} secret {label}" for (tenant, provider, label), _, _ in left)
        raise CommandError(f"not encrypted with the first key, because no key of SECRETS_KEY opens them: {names}")


def _not_by_first_key(connection: Connection) -> list[tuple[tuple[str, str, str], Secret, int | None]]:
    """Return tenant, provider and label of secrets, expired ones included; the secret; the place of its key, if any."""
    keys = cipher()
    _, endpoints = tenants.read_registry(connection)
    found = (
        ((it.tenant, it.provider, secret.label), secret, keys.key_of(secret))
        for it in endpoints
        for secret in it.secrets
    )
    return [one for one in found if one[2] != 1]


def require_another(before: Endpoint, after: Endpoint) -> None:
    """Make sure that a change leaves no time in which no secret of an endpoint may sign, unless there was one before.

    Raises:
        CommandError: it would; the change must be taken back.
    """
    now, was, last = datetime.now(UTC), _last_expiry(before), _last_expiry(after)
    if last < was and now < was:
        raise CommandError(
            f"nothing was changed: no other secret of {after.tenant}'s endpoint of {after.provider} may sign from "
            f"{max(last, now).isoformat(sep=' ', timespec='seconds')} on, all requests would get 401. Add one "
            f"first, with `pipeline secrets add {after.tenant} --provider {after.provider} --label …`, or add "
            "--even-the-last"
        )


def _last_expiry(endpoint: Endpoint) -> datetime:
    """Return the time from which no secret of an endpoint may sign."""
    return max((secret.expires_at or _NEVER for secret in endpoint.secrets), default=_EVER)
