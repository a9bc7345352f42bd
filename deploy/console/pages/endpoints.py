"""Endpoints: where providers post, how they sign, and adding, changing and disabling endpoints."""

import tomllib
from collections import Counter
from datetime import UTC, datetime
from typing import Any, Final

from starlette.responses import Response

from deploy.cli.schemes import UNSIGNED, SchemeField, check_secret, find_scheme, scheme_name
from deploy.cli.secrets import path_of
from deploy.console.actions import Action, Done, Field, Plan
from deploy.console.pages.refused import read_refused
from deploy.console.pages.secrets import LABEL, NO_SECRETS, PROVIDER, SECRET, TENANT, encrypt, key_of
from deploy.console.publishing import publish
from deploy.console.rendering import command_line, url
from deploy.console.rules import Rule
from deploy.console.visit import InputError, Visit
from ingress.schemes import PRESETS, compose
from ingress.schemes.scheme import BadSchemeError
from workers.store import figures, tenants

SHOWN: Final = 100
SCHEME: Final = Field(
    name="scheme",
    label="How the provider signs",
    kind="select",
    choices=("", *sorted(PRESETS)),
    about="The scheme of the provider's name if empty.",
)
DESCRIPTION: Final = Field(
    name="description", label="Or a description of it", kind="lines", about="TOML, where no scheme fits."
)


def list_endpoints(visit: Visit) -> Response:
    """Show endpoints by tenant, a page at a time."""
    tenant, after = visit.given("tenant"), visit.given("after")
    key = None
    if after is not None:
        key = (after.partition("/")[0], after.partition("/")[2])
    found = tenants.list_endpoints(visit.connection, prefix=tenant, after=key, limit=SHOWN + 1)
    shown = found[:SHOWN]
    last = shown[-1] if shown else None
    more = last is not None and len(found) > SHOWN
    refused: Counter[tuple[str, str]] = Counter()
    for it in read_refused(visit) or ():
        refused[it.tenant, it.provider] += it.count
    return visit.page(
        "endpoints",
        title="Endpoints",
        endpoints=shown,
        last_events=figures.read_last_events(visit.connection, [(it.tenant, it.provider) for it in shown]),
        refused=refused,
        scheme_name=scheme_name,
        path_of=path_of,
        next=url("/endpoints", tenant=tenant, after=f"{last.tenant}/{last.provider}") if more and last else None,
        first=url("/endpoints", tenant=tenant) if after else None,
        command=command_line("endpoints", "list", tenant=tenant),
    )


def show_endpoint(visit: Visit) -> Response:
    """Show one endpoint: the path to register, its secrets by label, and what was refused."""
    key = {name: str(visit.request.path_params[name]) for name in ("tenant", "provider")}
    found = tenants.find_endpoint(visit.connection, **key)
    listed = tenants.list_secrets(visit.connection, **key)
    now = datetime.now(UTC)
    return visit.page(
        "endpoint",
        title=path_of(found.tenant, found.provider),
        endpoint=found,
        scheme=scheme_name(found.scheme),
        is_unsigned=found.scheme == UNSIGNED,
        secrets=[(it, it.expires_at is None or it.expires_at > now) for it in listed],
        refused=[it for it in read_refused(visit) or [] if (it.tenant, it.provider) == (found.tenant, found.provider)],
        ingress_url=visit.console.settings.ingress_url,
        path=path_of(found.tenant, found.provider) + ("/TOKEN" if found.scheme == UNSIGNED else ""),
        command=command_line("secrets", "list", found.tenant, provider=found.provider),
        last_event=figures.read_last_events(visit.connection, [(found.tenant, found.provider)]),
    )


def _scheme(visit: Visit) -> SchemeField:
    """Return the scheme that was chosen, by name or by a description. Raises InputError."""
    name, description = visit.given("scheme"), visit.given("description")
    if name is not None and description is not None:
        raise InputError("a scheme and a description say two different things: give one of them")
    if description is not None:
        try:
            read = tomllib.loads(description)
            compose(read)
        except (tomllib.TOMLDecodeError, BadSchemeError, RecursionError) as error:
            raise InputError(f"the description cannot be used: {error}") from None
        return read
    chosen = name or visit.given("provider") or ""
    if chosen not in PRESETS:
        raise InputError(f"{chosen} has no scheme of its own: choose one, or describe how it signs")
    if chosen == UNSIGNED and visit.given("unsigned") is None:
        raise InputError("an endpoint that nobody signs for is open to whoever learns its path: say that you know it")
    return chosen


def _plan_add(visit: Visit) -> Plan:
    key, scheme = key_of(visit), _scheme(visit)
    tenants.find_tenant(visit.connection, key["tenant"])
    words = ("endpoints", "add", key["tenant"])
    options: dict[str, Any] = {
        "provider": key["provider"],
        "label": visit.given("label"),
        "scheme": visit.given("scheme"),
    }
    if not isinstance(scheme, str):
        options["scheme_file"] = "scheme.toml"
    if scheme == UNSIGNED:
        options["i_know_this_is_unsigned"] = True
    return Plan(
        sentence=f"Add the endpoint {path_of(**key)}, whose requests are signed by {scheme_name(scheme)}.",
        details=("A running ingress knows it within two seconds.",),
        command=command_line(*words, **options, reason=visit.given("why")),
        tenant=key["tenant"],
        refusal="" if visit.console.cipher else NO_SECRETS,
    )


def _add(visit: Visit) -> Done:
    key, scheme = key_of(visit), _scheme(visit)
    ciphertext, told = encrypt(visit, scheme)
    label = visit.given("label") or ""
    tenants.add_endpoint(visit.connection, **key, scheme=scheme, label=label, ciphertext=ciphertext)
    said = f"added {path_of(**key)}{told}{publish(visit)}"
    return Done(said=said, to=f"/endpoints/{key['tenant']}/{key['provider']}")


def _plan_change(visit: Visit) -> Plan:
    key, scheme = key_of(visit), _scheme(visit)
    found = tenants.find_endpoint(visit.connection, **key)
    if UNSIGNED in (found.scheme, scheme):
        raise InputError("the secrets of an unsigned endpoint are parts of its path: add an endpoint instead")
    options = {"scheme": visit.given("scheme"), "scheme_file": None if isinstance(scheme, str) else "scheme.toml"}
    return Plan(
        sentence=f"Expect {scheme_name(scheme)} of what is posted to {path_of(**key)}; its secrets stay.",
        command=command_line(
            *("endpoints", "change", key["tenant"]), provider=key["provider"], **options, reason=visit.given("why")
        ),
        tenant=key["tenant"],
        refusal="" if visit.console.cipher else NO_SECRETS,
    )


def _change(visit: Visit) -> Done:
    key, scheme = key_of(visit), _scheme(visit)
    cipher = visit.console.cipher
    if cipher is None:
        raise InputError(NO_SECRETS)
    found = tenants.find_endpoint(visit.connection, **key)
    for secret in filter(tenants.is_alive, found.secrets):
        check_secret(find_scheme(scheme), secret.label, cipher.decrypt(secret))
    tenants.change_scheme(visit.connection, **key, scheme=scheme)
    return Done(said=f"{path_of(**key)} now expects {scheme_name(scheme)}{publish(visit)}")


def _plan_enable(visit: Visit, *, enabled: bool) -> Plan:
    key = key_of(visit)
    tenants.find_endpoint(visit.connection, **key)
    word = "enable" if enabled else "disable"
    sentence = "Take {path} back into service." if enabled else "Answer 404 to what is posted to {path}."
    return Plan(
        sentence=sentence.format(path=path_of(**key)),
        details=() if enabled else ("What is stored is still handled.",),
        command=command_line("endpoints", word, key["tenant"], provider=key["provider"], reason=visit.given("why")),
        tenant=key["tenant"],
    )


def _enable(visit: Visit, *, enabled: bool) -> Done:
    key = key_of(visit)
    (tenants.enable_endpoint if enabled else tenants.disable_endpoint)(visit.connection, **key)
    return Done(said=f"{path_of(**key)} is {'in service' if enabled else 'disabled'}{publish(visit)}")


RULES: Final = (
    Rule(method="GET", path="/endpoints", role="viewer", page=list_endpoints),
    Rule(method="GET", path="/endpoints/{tenant}/{provider}", role="viewer", page=show_endpoint),
)
ACTIONS: Final = (
    Action(
        name="endpoint-add",
        title="Add an endpoint",
        fields=(
            TENANT,
            Field(name="provider", label="Provider", about="A part of the URL, such as moveris.", required=True),
            SCHEME,
            DESCRIPTION,
            LABEL,
            SECRET,
            Field(name="unsigned", label="I know that nobody signs at this endpoint (scheme none)", kind="checkbox"),
        ),
        plan=_plan_add,
        perform=_add,
    ),
    Action(
        name="endpoint-change",
        title="Change the scheme",
        fields=(TENANT, PROVIDER, SCHEME, DESCRIPTION),
        plan=_plan_change,
        perform=_change,
    ),
    Action(
        name="endpoint-disable",
        title="Disable the endpoint",
        fields=(TENANT, PROVIDER),
        plan=lambda visit: _plan_enable(visit, enabled=False),
        perform=lambda visit: _enable(visit, enabled=False),
        is_dangerous=True,
    ),
    Action(
        name="endpoint-enable",
        title="Enable the endpoint",
        fields=(TENANT, PROVIDER),
        plan=lambda visit: _plan_enable(visit, enabled=True),
        perform=lambda visit: _enable(visit, enabled=True),
    ),
)
