"""Secrets of endpoints: adding, rotating and expiring them by their labels.

A secret is typed or pasted once and never shown again; without `CONSOLE_SECRETS` the page shows the command instead.
"""

import secrets as random
from datetime import UTC, datetime, timedelta
from typing import Final

from deploy.cli.arguments import duration
from deploy.cli.errors import CommandError
from deploy.cli.schemes import UNSIGNED, SchemeField, check_secret, find_scheme
from deploy.cli.secrets import path_of, require_another
from deploy.console import inputs
from deploy.console.actions import Action, Done, Field, Plan
from deploy.console.publishing import publish
from deploy.console.rendering import command_line
from deploy.console.visit import InputError, Visit
from deploy.signatures.secret_text import SecretTextError, clean_secret
from ingress.schemes.handshakes import verify_token
from ingress.schemes.scheme import Handshake
from workers.store import tenants

NO_SECRETS: Final = "This console takes no secrets (CONSOLE_SECRETS is not yes): use the command below."
TENANT: Final = Field(name="tenant", label="Tenant", kind="fixed", required=True)
PROVIDER: Final = Field(name="provider", label="Provider", kind="fixed", required=True)
LABEL: Final = Field(
    name="label",
    label="Label",
    about="Your name for the secret, such as the model it belongs to; kept on every event that it signed.",
    required=True,
)
SECRET: Final = Field(
    name="secret",
    label="Secret",
    kind="secret",
    about="As the provider showed it; it is encrypted and never shown again.",
)


def key_of(visit: Visit) -> dict[str, str]:
    """Return which endpoint an action is about."""
    return {"tenant": visit.given("tenant") or "", "provider": visit.given("provider") or ""}


def encrypt(visit: Visit, scheme: SchemeField) -> tuple[bytes, str]:
    """Return the ciphertext of the secret that was given, and what the provider has to be told beside the path."""
    cipher = visit.console.cipher
    if cipher is None:
        raise InputError(NO_SECRETS)
    label, text = visit.given("label") or "", visit.form.get("secret", "")
    told = ""
    try:
        secret = random.token_urlsafe(32).encode() if scheme == UNSIGNED and not text else clean_secret(text.encode())
        known = find_scheme(scheme)
        check_secret(known, label, secret)
    except (SecretTextError, CommandError) as error:
        raise InputError(str(error)) from None
    if scheme == UNSIGNED:
        told = f"; its path ends in /{secret.decode()}, which is not shown again"
    elif known.handshake is Handshake.HUB_CHALLENGE:
        told = f"; the verify token to enter beside the URL is {verify_token(secret)}"
    return cipher.encrypt(secret), told


def _plan_secret(visit: Visit) -> Plan:
    key = key_of(visit)
    tenants.find_endpoint(visit.connection, **key)
    return Plan(
        sentence=f"Add a secret to {path_of(**key)}, beside those that it has; all of them may sign.",
        details=("To rotate: add the new secret, let the provider use it, then expire the old one.",),
        command=command_line(
            "secrets",
            "add",
            key["tenant"],
            provider=key["provider"],
            label=visit.given("label"),
            reason=visit.given("why"),
        ),
        tenant=key["tenant"],
        refusal="" if visit.console.cipher else NO_SECRETS,
    )


def _add_secret(visit: Visit) -> Done:
    key, label = key_of(visit), visit.given("label") or ""
    ciphertext, told = encrypt(visit, tenants.find_endpoint(visit.connection, **key).scheme)
    tenants.add_secret(visit.connection, **key, label=label, ciphertext=ciphertext)
    return Done(said=f"added the secret {label} to {path_of(**key)}{told}{publish(visit)}")


def _end(visit: Visit) -> datetime:
    return datetime.now(UTC) + (inputs.read(visit, "in", duration) or timedelta())


def _plan_expire(visit: Visit) -> Plan:
    key, label = key_of(visit), visit.given("label") or ""
    tenants.find_endpoint(visit.connection, **key)
    _end(visit)
    when = f"in {visit.given('in')}" if visit.given("in") else "now"
    return Plan(
        sentence=f"Let the secret {label} of {path_of(**key)} verify nothing any more, {when}.",
        command=command_line(
            *("secrets", "expire", key["tenant"], label),
            provider=key["provider"],
            **{"in": visit.given("in")},
            even_the_last=visit.given("even_the_last") is not None,
            reason=visit.given("why"),
        ),
        tenant=key["tenant"],
    )


def _expire(visit: Visit) -> Done:
    key, label = key_of(visit), visit.given("label") or ""
    with visit.connection.transaction():
        before = tenants.find_endpoint(visit.connection, **key)
        tenants.expire_secret(visit.connection, **key, label=label, at=_end(visit))
        after = tenants.find_endpoint(visit.connection, **key)
        if visit.given("even_the_last") is None:
            require_another(before, after)
    return Done(said=f"{label} of {path_of(**key)} expires{publish(visit)}")


def _plan_reencrypt(visit: Visit) -> Plan:
    old, closed = _by_old_keys(visit)
    left = f"; {closed} cannot be opened by any key and stay as they are" if closed else ""
    return Plan(
        sentence=f"Encrypt {len(old)} secrets with the first key of SECRETS_KEY{left}.",
        details=("After that the other keys can be taken out, if every secret could be opened.",),
        command=command_line("secrets", "reencrypt", reason=visit.given("why")),
    )


def _reencrypt(visit: Visit) -> Done:
    old, _ = _by_old_keys(visit)
    count = tenants.replace_ciphertexts(visit.connection, old) if old else 0
    return Done(said=f"encrypted {count} secrets with the first key{publish(visit)}")


def _by_old_keys(visit: Visit) -> tuple[dict[tuple[str, str, str], tuple[bytes, bytes]], int]:
    """Return what `replace_ciphertexts` takes, of secrets that the first key does not open; how many no key opens."""
    cipher = visit.console.cipher
    if cipher is None:
        raise InputError(NO_SECRETS)
    _, endpoints = tenants.read_registry(visit.connection)
    named = [((it.tenant, it.provider, secret.label), secret) for it in endpoints for secret in it.secrets]
    keys = {name: cipher.key_of(secret) for name, secret in named}
    old = {name: (secret.ciphertext, cipher.reencrypt(secret)) for name, secret in named if keys[name] not in {1, None}}
    return old, sum(key is None for key in keys.values())


RULES: Final = ()
ACTIONS: Final = (
    Action(
        name="secrets-reencrypt",
        title="Encrypt secrets anew",
        role="admin",
        fields=(),
        plan=_plan_reencrypt,
        perform=_reencrypt,
    ),
    Action(
        name="secret-add",
        title="Add a secret",
        fields=(TENANT, PROVIDER, LABEL, SECRET),
        plan=_plan_secret,
        perform=_add_secret,
    ),
    Action(
        name="secret-expire",
        title="Expire the secret",
        fields=(
            TENANT,
            PROVIDER,
            Field(name="label", label="Secret", kind="fixed", required=True),
            Field(name="in", label="Not now but in", about="90s, 30m, 2h or 7d."),
            Field(name="even_the_last", label="Even if no other secret may sign after it", kind="checkbox"),
        ),
        plan=_plan_expire,
        perform=_expire,
        is_dangerous=True,
    ),
)
