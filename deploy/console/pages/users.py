"""Users of the console, for admins."""

from typing import Any, Final

from starlette.responses import Response

from deploy.console.actions import Action, Done, Field, Plan
from deploy.console.passwords import hash_password
from deploy.console.rendering import command_line
from deploy.console.rules import Rule
from deploy.console.visit import InputError, NotFoundError, Visit
from workers.store import people
from workers.store.people import ROLES, Role

NAME: Final = Field(name="name", label="Name", kind="fixed", required=True)
ROLE: Final = Field(
    name="role",
    label="Role",
    kind="select",
    choices=ROLES,
    required=True,
    about="A viewer sees all but bodies, an operator changes things of their tenants, an admin everything.",
)
TENANTS: Final = Field(name="tenants", label="Tenants", about="Of an operator, apart by blanks; all if empty.")
PASSWORD: Final = Field(name="password", label="Password", kind="secret", about="At least 12 characters.")
NO_PASSWORD: Final = Field(
    name="no_password", label="None: they come in through a proxy that says who they are", kind="checkbox"
)


def list_users(visit: Visit) -> Response:
    """Show who may sign in."""
    command = command_line("console", "list-users")
    return visit.page("users", title="Users", users=people.list_people(visit.connection), command=command)


def _name(visit: Visit) -> str:
    return visit.given("name") or ""


def _role(visit: Visit) -> Role:
    role = visit.given("role")
    for it in ROLES:
        if it == role:
            return it
    raise InputError(f"no role {role!r}: take {', '.join(ROLES)}")


def _tenants(visit: Visit) -> tuple[str, ...] | None:
    words = (visit.given("tenants") or "").replace(",", " ").split()
    return tuple(words) or None


def _hash(visit: Visit) -> str | None:
    """Return the hash of the password that was typed; None for none, which has to be said."""
    text, has_none = visit.form.get("password", ""), visit.given("no_password") is not None
    if bool(text) == has_none:
        raise InputError("give a password, or say that they have none")
    return None if has_none else hash_password(text)


def _words(visit: Visit) -> str:
    tenants = _tenants(visit)
    return f"{_role(visit)} of {', '.join(tenants) if tenants else 'all tenants'}"


def _command(visit: Visit, word: str, **options: Any) -> str:
    return command_line("console", word, _name(visit), **options, tenant=_tenants(visit), reason=visit.given("why"))


def _plan_add(visit: Visit) -> Plan:
    may_let_others_in = _role(visit) == "admin" and visit.given("no_password") is None
    if not may_let_others_in and not people.count_people(visit.connection):
        raise InputError("the first user has to be an admin with a password: they shut out everybody else")
    command = _command(visit, "add-user", role=visit.given("role"), no_password=visit.given("no_password") is not None)
    return Plan(sentence=f"Add {_name(visit)}, {_words(visit)}.", command=command)


def _add(visit: Visit) -> Done:
    people.add_person(
        visit.connection, _name(visit), role=_role(visit), tenants=_tenants(visit), password_hash=_hash(visit)
    )
    return Done(said=f"added {_name(visit)}", to="/users")


def _plan_change(visit: Visit) -> Plan:
    _require(visit)
    if _name(visit) == visit.person.name and _role(visit) != visit.person.role:
        raise InputError("nobody takes their own role away: another admin does it")
    is_of_all = _role(visit) == "operator" and _tenants(visit) is None
    command = _command(visit, "change-user", role=visit.given("role"), all_tenants=is_of_all)
    return Plan(sentence=f"Make {_name(visit)} {_words(visit)}.", command=command)


def _change(visit: Visit) -> Done:
    people.change_person(visit.connection, _name(visit), role=_role(visit), tenants=_tenants(visit))
    return Done(said=f"{_name(visit)} is {_words(visit)}", to="/users")


def _plan_password(visit: Visit) -> Plan:
    if visit.given("no_password") is None:
        _require(visit)
    else:
        _require_another(visit)
    command = _command(visit, "set-password", no_password=visit.given("no_password") is not None)
    return Plan(sentence=f"Give {_name(visit)} another password; their sessions end.", command=command)


def _set_password(visit: Visit) -> Done:
    made = _hash(visit)
    people.set_password(visit.connection, _name(visit), made)
    return Done(said=f"{_name(visit)} has {'another' if made else 'no'} password", to="/users")


def _plan_disable(visit: Visit) -> Plan:
    _require_another(visit)
    sentence = f"Let {_name(visit)} in no more; their sessions end. What they may do is kept for when they come back."
    return Plan(sentence=sentence, command=_command(visit, "change-user", disable=True))


def _disable(visit: Visit) -> Done:
    people.disable_person(visit.connection, _name(visit))
    return Done(said=f"{_name(visit)} is disabled", to="/users")


def _plan_enable(visit: Visit) -> Plan:
    _require(visit)
    return Plan(sentence=f"Let {_name(visit)} in again.", command=_command(visit, "change-user", enable=True))


def _enable(visit: Visit) -> Done:
    people.enable_person(visit.connection, _name(visit))
    return Done(said=f"{_name(visit)} may come in again", to="/users")


def _plan_remove(visit: Visit) -> Plan:
    _require_another(visit)
    sentence = f"Remove {_name(visit)}; their sessions end. What they did stays in the audit."
    return Plan(sentence=sentence, command=_command(visit, "remove-user"))


def _remove(visit: Visit) -> Done:
    people.remove_person(visit.connection, _name(visit))
    return Done(said=f"removed {_name(visit)}", to="/users")


def _require(visit: Visit) -> None:
    if _name(visit) not in {it.name for it in people.list_people(visit.connection)}:
        raise NotFoundError(f"there is no user {_name(visit)!r}")


def _require_another(visit: Visit) -> None:
    _require(visit)
    if _name(visit) == visit.person.name:
        raise InputError("nobody shuts themselves out: another admin does it")


RULES: Final = (Rule(method="GET", path="/users", role="admin", page=list_users),)
ACTIONS: Final = (
    Action(
        name="user-add",
        title="Add a user",
        role="admin",
        fields=(Field(name="name", label="Name", required=True), ROLE, TENANTS, PASSWORD, NO_PASSWORD),
        plan=_plan_add,
        perform=_add,
    ),
    Action(
        name="user-change",
        title="Change the user",
        role="admin",
        fields=(NAME, ROLE, TENANTS),
        plan=_plan_change,
        perform=_change,
    ),
    Action(
        name="user-password",
        title="Set the password",
        role="admin",
        fields=(NAME, PASSWORD, NO_PASSWORD),
        plan=_plan_password,
        perform=_set_password,
    ),
    Action(
        name="user-disable",
        title="Disable the user",
        role="admin",
        fields=(NAME,),
        plan=_plan_disable,
        perform=_disable,
        is_dangerous=True,
    ),
    Action(
        name="user-enable",
        title="Enable the user",
        role="admin",
        fields=(NAME,),
        plan=_plan_enable,
        perform=_enable,
    ),
    Action(
        name="user-remove",
        title="Remove the user",
        role="admin",
        fields=(NAME,),
        plan=_plan_remove,
        perform=_remove,
        is_dangerous=True,
    ),
)
