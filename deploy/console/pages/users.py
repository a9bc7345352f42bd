"""Users of the console, for admins."""

from typing import Final

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
PASSWORD: Final = Field(
    name="password", label="Password", kind="secret", required=True, about="At least 12 characters."
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


def _hash(visit: Visit) -> str:
    return hash_password(visit.form.get("password", ""))


def _words(visit: Visit) -> str:
    tenants = _tenants(visit)
    return f"{_role(visit)} of {', '.join(tenants) if tenants else 'all tenants'}"


def _command(visit: Visit, word: str) -> str:
    options = "".join(f" --tenant {it}" for it in _tenants(visit) or ())
    return command_line("console", word, _name(visit), role=visit.given("role")) + options


def _plan_add(visit: Visit) -> Plan:
    return Plan(sentence=f"Add {_name(visit)}, {_words(visit)}.", command=_command(visit, "add-user"))


def _add(visit: Visit) -> Done:
    people.add_person(
        visit.connection, _name(visit), role=_role(visit), tenants=_tenants(visit), password_hash=_hash(visit)
    )
    return Done(said=f"added {_name(visit)}", to="/users")


def _plan_change(visit: Visit) -> Plan:
    _require(visit)
    return Plan(sentence=f"Make {_name(visit)} {_words(visit)}.", command=_command(visit, "change-user"))


def _change(visit: Visit) -> Done:
    people.change_person(visit.connection, _name(visit), role=_role(visit), tenants=_tenants(visit))
    return Done(said=f"{_name(visit)} is {_words(visit)}", to="/users")


def _plan_password(visit: Visit) -> Plan:
    _require(visit)
    command = command_line("console", "set-password", _name(visit))
    return Plan(sentence=f"Give {_name(visit)} another password; their sessions end.", command=command)


def _set_password(visit: Visit) -> Done:
    people.set_password(visit.connection, _name(visit), _hash(visit))
    return Done(said=f"{_name(visit)} has another password", to="/users")


def _plan_remove(visit: Visit) -> Plan:
    _require(visit)
    if _name(visit) == visit.person.name:
        raise InputError("nobody removes themselves: another admin does it")
    command = command_line("console", "remove-user", _name(visit))
    return Plan(
        sentence=f"Remove {_name(visit)}; their sessions end. What they did stays in the audit.", command=command
    )


def _remove(visit: Visit) -> Done:
    people.remove_person(visit.connection, _name(visit))
    return Done(said=f"removed {_name(visit)}", to="/users")


def _require(visit: Visit) -> None:
    if people.find_person(visit.connection, _name(visit)) is None:
        raise NotFoundError(f"there is no user {_name(visit)!r}")


RULES: Final = (Rule(method="GET", path="/users", role="admin", page=list_users),)
ACTIONS: Final = (
    Action(
        name="user-add",
        title="Add a user",
        role="admin",
        fields=(Field(name="name", label="Name", required=True), ROLE, TENANTS, PASSWORD),
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
        fields=(NAME, PASSWORD),
        plan=_plan_password,
        perform=_set_password,
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
