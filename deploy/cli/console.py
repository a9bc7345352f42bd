"""The commands `pipeline console …`: who may use the web console, and as what."""

from collections.abc import Sequence
from typing import Annotated, Final

import typer

from deploy.cli.connections import database
from deploy.cli.errors import CommandError
from deploy.cli.output import command, emit, say
from deploy.cli.secret_input import read_password
from workers.store import people
from workers.store.people import ROLES, Role

app: Final = typer.Typer(help="Console: the people who may use it, and what they may do.", no_args_is_help=True)


def _role(text: str) -> str:
    if text not in ROLES:
        raise typer.BadParameter(f"{text!r} is no role; write {', '.join(ROLES)}")
    return text


_ROLE_OPTION: Final = typer.Option(
    "--role",
    parser=_role,
    metavar="ROLE",
    help="viewer looks at everything, operator changes what is of tenants, admin changes everything.",
)
UserName = Annotated[str, typer.Argument(metavar="NAME", help="That they sign in with, or that the proxy sends.")]
Tenants = Annotated[
    list[str] | None,
    typer.Option("--tenant", metavar="TENANT", help="An operator's: change what is of this one only; may be repeated."),
]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input instead of asking for it.")
]
NoPassword = Annotated[
    bool, typer.Option("--no-password", help="Have no password: only the proxy of CONSOLE_PROXY_HEADER lets them in.")
]


@command(app, changes=True)
def add_user(
    name: UserName,
    *,
    role: Annotated[str, _ROLE_OPTION],
    tenant: Tenants = None,
    password_stdin: PasswordStdin = False,
    no_password: NoPassword = False,
) -> None:
    """Add somebody who may use the console; the password is asked for twice.

    Examples:
        pipeline console add-user alice --role admin
        pipeline console add-user bob --role operator --tenant acme --tenant globex
        pipeline console add-user carol@example.com --role viewer --no-password
    """
    password_hash = _read_hash(password_stdin=password_stdin, no_password=no_password)
    with database() as connection:
        people.add_person(connection, name, role=_checked(role), tenants=tenant or None, password_hash=password_hash)
    how = "through the proxy" if password_hash is None else "with this name and password"
    row = {"name": name, "role": role, "tenants": sorted(set(tenant or [])) or None, "has_password": not no_password}
    say(row, f"added {name}, {_in_words(role, tenant)}, who comes in {how}")


@command(app)
def list_users() -> None:
    """List who may use the console, and as what."""
    with database(read_only=True) as connection:
        found = people.list_people(connection)
    columns = ("name", "role", "tenants", "has_password", "seen_at", "disabled_at", "created_at")
    emit(found, *columns, shown=lambda row: row | {"tenants": row["tenants"] or "all"})


@command(app, changes=True)
def change_user(
    name: UserName,
    *,
    role: Annotated[str | None, _ROLE_OPTION] = None,
    tenant: Tenants = None,
    all_tenants: Annotated[bool, typer.Option("--all-tenants", help="Change what is of any tenant.")] = False,
    disable: Annotated[bool, typer.Option("--disable", help="Let them in no more; their sessions end.")] = False,
    enable: Annotated[bool, typer.Option("--enable", help="Let them in again.")] = False,
) -> None:
    """Change what somebody may do in the console, from their next request on; what is not given stays as it is.

    Examples:
        pipeline console change-user bob --role operator --tenant acme
        pipeline console change-user bob --disable --reason "has left"
    """
    if not (role or tenant or all_tenants or disable or enable):
        raise CommandError("nothing to change: give --role, --tenant, --all-tenants, --disable or --enable")
    if (tenant and all_tenants) or (disable and enable):
        raise CommandError("two options say the opposite of each other: give one of them")
    with database() as connection, connection.transaction():
        if role or tenant or all_tenants:
            before = next((it for it in people.list_people(connection) if it.name == name), None)
            new_role = _checked(role or (before.role if before else "viewer"))
            kept = before.tenants if before and new_role == "operator" and not all_tenants else None
            people.change_person(connection, name, role=new_role, tenants=tenant or kept)
        if disable:
            people.disable_person(connection, name)
        if enable:
            people.enable_person(connection, name)
        (now,) = (it for it in people.list_people(connection) if it.name == name)
    say(now, f"{name} is {_in_words(now.role, now.tenants)}{', disabled' if now.disabled_at else ''}")


@command(app, changes=True)
def set_password(name: UserName, *, password_stdin: PasswordStdin = False, no_password: NoPassword = False) -> None:
    """Give somebody another password, or none; their sessions end.

    Examples:
        pipeline console set-password alice
    """
    password_hash = _read_hash(password_stdin=password_stdin, no_password=no_password)
    with database() as connection:
        people.set_password(connection, name, password_hash)
    what = "another password" if password_hash else "no password"
    say({"name": name, "has_password": not no_password}, f"{name} has {what}; whoever was signed in as them is out")


@command(app, changes=True)
def remove_user(name: UserName) -> None:
    """Remove somebody from the console; their sessions end, what they did stays in the audit."""
    with database() as connection:
        people.remove_person(connection, name)
    say({"name": name}, f"removed {name}")


def _read_hash(*, password_stdin: bool, no_password: bool) -> str | None:
    """Return the hash of a password that is asked for; None for none."""
    if no_password:
        if password_stdin:
            raise CommandError("--password-stdin and --no-password say the opposite of each other: give one of them")
        return None
    try:
        from deploy.console.passwords import hash_password  # noqa: PLC0415 - needs the extra `console`
    except ModuleNotFoundError as error:
        raise CommandError(f"{error.name} is not installed: install webhook-pipeline[console]") from None
    return hash_password(read_password(from_stdin=password_stdin))


def _checked(role: str) -> Role:
    return next(it for it in ROLES if it == role)


def _in_words(role: str, tenants: Sequence[str] | None) -> str:
    if role != "operator":
        return role
    return f"operator of {', '.join(sorted(set(tenants)))}" if tenants else "operator of all tenants"
