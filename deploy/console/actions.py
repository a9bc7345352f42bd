"""Actions: what a person can change, each with the command that does the same.

An action is a form and a confirmation that says what will happen, both pages that work without a script. One page is
both where it was not changed since it said so; otherwise it asks again. What takes many deliveries or events is first
counted, then confirmed, then done by a job that can be followed. The pages that lead to an action give its values and
the address to come back to, so that filters survive it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlencode

from starlette.responses import Response

from deploy.cli.errors import CommandError
from deploy.console import inputs
from deploy.console.rendering import url
from deploy.console.rules import Rule
from deploy.console.visit import ForbiddenError, InputError, Visit, local_path
from workers.store.people import Role
from workers.store.refusals import RefusedError

MOST_TEXT: Final = 10_000
MOST_LINES: Final = 100_000
"""Characters of a field, and of one that has lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """An input of an action's form.

    Attributes:
        about: a sentence below it, such as the forms that it takes.
        kind: "fixed" is shown and cannot be changed; "secret" is typed blind and never sent back to the browser; of a
            "time" that has passed, such as 10m, the confirmation has the moment that it meant when it was counted.
        choices: of a select: values; an empty one stands for none.
        required: the browser and the server insist on it.
        default: what it has at first.
    """

    name: str
    label: str
    about: str = ""
    kind: Literal["text", "number", "time", "select", "checkbox", "secret", "lines", "fixed"] = "text"
    choices: Sequence[str] = ()
    required: bool = False
    default: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an action would do, as its confirmation says it.

    Attributes:
        sentence: names what is changed, and how much of it.
        command: the line that does the same in a shell.
        tenant: whose it is; None: of all tenants, which not every operator may change.
        details: more sentences.
        refusal: why it cannot be done here; the command is shown all the same.
    """

    sentence: str
    command: str
    tenant: str | None = None
    details: Sequence[str] = ()
    refusal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What an action has done: a sentence, and the page to go to; the one the person came from, if empty."""

    said: str
    to: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Something that a person can do.

    Attributes:
        name: of its address, `/do/NAME`.
        title: a verb and its object.
        fields: of its form.
        plan: checks the values and says what would be done; raises what `perform` would.
        perform: does it.
        role: the least that is needed.
        is_counted: the form is sent once to be counted, and confirmed after that.
        is_dangerous: it interrupts something; the button is red.
    """

    name: str
    title: str
    fields: Sequence[Field]
    plan: Callable[[Visit], Plan]
    perform: Callable[[Visit], Done]
    role: Role = "operator"
    is_counted: bool = False
    is_dangerous: bool = False


def rules(actions: Sequence[Action]) -> list[Rule]:
    """Return the routes of actions: a form, and what it posts to."""
    return [
        rule
        for action in actions
        for rule in (
            Rule(method="GET", path=f"/do/{action.name}", role=action.role, page=_form_page(action)),
            Rule(method="POST", path=f"/do/{action.name}", role=action.role, page=_submit(action)),
        )
    ]


def link(name: str, back: str, values: Mapping[str, object] | None = None, **more: object) -> str:
    """Return the address of an action's form with these values, and where to come back to."""
    return url(f"/do/{name}", {**(values or {}), **more}, back=back)


def _form_page(action: Action) -> Callable[[Visit], Response]:
    def show(visit: Visit) -> Response:
        is_ready = all(visit.given(it.name) for it in action.fields if it.required and it.kind != "secret")
        plan = problem = None
        if is_ready and (not action.is_counted or visit.given("step") == "confirm"):
            try:
                plan = _planned(action, visit)
            except (InputError, RefusedError, CommandError) as error:
                problem = str(error)
            except ForbiddenError as error:
                if not any(it.name == "tenant" and it.kind != "fixed" for it in action.fields):
                    raise
                problem = f"{error}: name a tenant whose operator you are"
        return _show(action, visit, plan, problem)

    return show


def _submit(action: Action) -> Callable[[Visit], Response]:
    def do(visit: Visit) -> Response:
        try:
            _check_given(action, visit)
            plan = _planned(action, visit)
            if plan.refusal:
                return _show(action, visit, plan, None, status=403)
            if _is_unseen(action, visit):
                return _show(action, visit, plan, None, is_asked_again=True)
            done = action.perform(visit)
        except (InputError, RefusedError, CommandError) as error:
            return _show(action, visit, None, str(error), status=400)
        return visit.go(done.to or local_path(visit.given("back")), done.said)

    return do


def _is_unseen(action: Action, visit: Visit) -> bool:
    """Return whether the form was changed since it said what would be done; a secret would have to be typed again."""
    seen = visit.form.get("seen")
    is_confirmed = action.is_counted or any(it.kind == "secret" for it in action.fields)
    return seen is not None and not is_confirmed and seen != urlencode(_values(action, visit))


def _check_given(action: Action, visit: Visit) -> None:
    for field in action.fields:
        text = visit.given(field.name)
        if field.required and text is None:
            raise InputError(f"{field.label} is missing")
        if field.kind == "select" and text is not None and text not in field.choices:
            raise InputError(f"{field.label} cannot be {text[:40]!r}")
        most = MOST_LINES if field.kind == "lines" else MOST_TEXT
        if text is not None and len(text) > most:
            raise InputError(f"{field.label} is longer than {most:,} characters")


def _planned(action: Action, visit: Visit) -> Plan:
    """Return what it would do; whether this person may is checked whatever they only look at."""
    plan = action.plan(visit)
    if action.role != "viewer":
        visit.require(action.role, plan.tenant)
    return plan


def _values(action: Action, visit: Visit) -> dict[str, str]:
    """Return what the form holds, but for what is secret; a refused one is filled in again."""
    is_new = visit.request.method != "POST"
    return {
        it.name: visit.given(it.name) or (it.default if is_new else "") for it in action.fields if it.kind != "secret"
    }


def _show(
    action: Action,
    visit: Visit,
    plan: Plan | None,
    problem: str | None,
    *,
    status: int = 200,
    is_asked_again: bool = False,
) -> Response:
    values = _values(action, visit)
    seen = urlencode(values) if plan else ""
    own = visit.person.tenants
    if own is not None and len(own) == 1 and values.get("tenant") == "":
        values["tenant"] = own[0]
    is_confirmed = plan is not None and action.is_counted
    if is_confirmed:
        times = {it.name: inputs.past(visit, it.name) for it in action.fields if it.kind == "time"}
        values |= {name: at.isoformat() for name, at in times.items() if at is not None}
    return visit.page(
        "action",
        title=action.title,
        status=status,
        action=action,
        plan=plan,
        problem=problem,
        values=values,
        is_confirmed=is_confirmed,
        is_asked_again=is_asked_again,
        seen=seen,
        back=local_path(visit.given("back")),
        why=visit.given("why") or "",
        command=plan.command if plan else None,
    )
