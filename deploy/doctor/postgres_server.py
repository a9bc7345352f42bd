"""What the guarantees rest on in Postgres."""

from collections.abc import Callable
from datetime import timedelta
from typing import Final

import psycopg

from deploy.doctor.finding import Finding, ok, unknown, wrong
from deploy.local.settings import OLDEST_POSTGRES
from workers.store import pooler, server, stats
from workers.store.connect import Connection, connect
from workers.store.identity import read_database
from workers.store.partitions import DAYS_AHEAD
from workers.store.session import HandlerSession

LAG_BYTES: Final = 64_000_000
"""How far behind a replica may be, and how much WAL may be kept for one that is away."""
FULL: Final = 0.9
"""Share of the connections from which there are few left."""


def checks(
    connection: Connection, *, handler_database_url: str = "", schema: str = ""
) -> dict[str, Callable[[], Finding]]:
    """Return the checks by the thing that each looks at.

    Args:
        connection: of any role but that of handlers.
        handler_database_url: HANDLER_DATABASE_URL; empty where none is set.
        schema: of the pipeline's tables; empty for where search_path points.
    """
    return {
        "postgres version": lambda: version(connection),
        "postgres role": lambda: role(connection),
        "postgres pooler": lambda: session(connection),
        "postgres encoding": lambda: ok("postgres encoding", server.read_facts(connection).encoding),
        "postgres tables": lambda: tables(connection),
        "postgres rights": lambda: rights(connection),
        "postgres handlers": lambda: handlers_role(connection, handler_database_url, schema),
        "postgres durability": lambda: durability(connection),
        "postgres replicas": lambda: replicas(connection),
        "postgres snapshots": lambda: snapshots(connection),
        "postgres connections": lambda: connections(connection),
        "postgres days": lambda: days(connection),
    }


THINGS: Final = tuple(checks(None))  # type: ignore[arg-type] # only the names are asked for


def version(connection: Connection) -> Finding:
    """Look at the server's version."""
    facts = server.read_facts(connection)
    if facts.version_number < OLDEST_POSTGRES:
        return wrong("postgres version", f"{facts.version} is older than {OLDEST_POSTGRES // 10_000}: upgrade it")
    return ok("postgres version", facts.version)


def role(connection: Connection) -> Finding:
    """See that it is the primary."""
    if server.read_facts(connection).is_standby:
        advice = "name the primary, or all hosts with target_session_attrs=read-write"
        return wrong("postgres role", f"DATABASE_URL names a standby, which takes no writes: {advice}")
    return ok("postgres role", "primary, takes writes")


def session(connection: Connection) -> Finding:
    """Say whether a pooler stands in between; one that shares sessions has been refused before."""
    found = "none in between" if pooler.is_direct(connection) else "one in session mode, which serves"
    return ok("postgres pooler", found)


def tables(connection: Connection) -> Finding:
    """See that all migrations are applied."""
    if missing := server.missing_migrations(connection):
        return wrong("postgres tables", f"{', '.join(missing)} not applied: run `pipeline migrate`")
    return ok("postgres tables", "all migrations of this version are applied")


def rights(connection: Connection) -> Finding:
    """See that the role may do what workers do."""
    name = server.read_facts(connection).role
    if missing := server.missing_rights(connection):
        advice = f"their owner runs what `pipeline grants --application {name}` prints"
        return wrong("postgres rights", f"the role {name} lacks {'; '.join(missing)}: {advice}")
    days = "make the days' tables, as a housekeeping worker must" if server.may_make_days(connection) else "no more"
    return ok("postgres rights", f"the role {name} may read, write and {days}")


def handlers_role(connection: Connection, handler_database_url: str, schema: str) -> Finding:
    """See that the role of `delivery.connection` can record a success in this database, and do nothing else of ours."""
    thing, own = "postgres handlers", server.read_facts(connection).role
    if not handler_database_url:
        return ok(thing, f"HANDLER_DATABASE_URL is not set here: handlers write as {own}")
    try:
        HandlerSession(handler_database_url, schema=schema).check()
        with connect(handler_database_url, name="pipeline command") as theirs:
            role, is_elsewhere = theirs.info.user, read_database(theirs) != read_database(connection)
    except psycopg.OperationalError as error:
        return wrong(thing, f"HANDLER_DATABASE_URL: {str(error).strip().partition(chr(10))[0]}")
    if is_elsewhere:
        return wrong(thing, "HANDLER_DATABASE_URL names another database than DATABASE_URL: no success is recorded")
    if role == own:
        return wrong(
            thing, f"HANDLER_DATABASE_URL has the role of DATABASE_URL, {role}: give handlers one of their own"
        )
    if excess := server.list_excess_rights(connection, role):
        advice = "revoke that, and grant what `pipeline grants --handlers` prints"
        return wrong(thing, f"the role {role} of handlers may change {', '.join(excess)}: {advice}")
    return ok(thing, f"the role {role} may record a success, and change none of the pipeline's tables")


def durability(connection: Connection) -> Finding:
    """See that what is committed survives a crash: it is acknowledged in the inbox, and gone there, right after."""
    found = server.read_facts(connection).durability
    if off := [name for name in ("fsync", "full_page_writes", "synchronous_commit") if found.get(name) == "off"]:
        return wrong("postgres durability", f"{', '.join(off)} off: a crash loses what was committed; set it to on")
    return ok("postgres durability", f"fsync on, synchronous_commit {found.get('synchronous_commit')}")


def replicas(connection: Connection, *, lag_bytes: float = LAG_BYTES) -> Finding:
    """See that replicas follow closely, that commits wait for none that is away, and that no WAL piles up."""
    facts, found, thing = server.read_facts(connection), server.list_replicas(connection), "postgres replicas"
    if facts.synchronous_standbys and not any(it.sync_state in {"sync", "quorum"} for it in found):
        names = facts.synchronous_standbys
        return wrong(thing, f"commits wait for {names} (synchronous_standby_names), and none follows: start it")
    for slot in server.list_idle_slots(connection):
        if slot.kept_bytes > lag_bytes:
            size = f"{slot.kept_bytes / 1_000_000:.0f} MB"
            return wrong(
                thing, f"{size} of WAL are kept for the slot {slot.name}, which nobody reads: start it, or drop it"
            )
    for it in found:
        if it.behind_bytes is not None and it.behind_bytes > lag_bytes:
            size = f"{it.behind_bytes / 1_000_000:.0f} MB"
            return wrong(
                thing, f"{it.name} is {size} behind: a failover to it now would lose that much; look at its load"
            )
    if any(it.behind_bytes is None for it in found):
        return unknown(thing, f"{len(found)} follow; how far behind is told to members of pg_monitor only")
    return ok(thing, ", ".join(f"{it.name} follows" for it in found) or "none")


def snapshots(connection: Connection, *, older_than: timedelta = timedelta(seconds=stats.OLD_SECONDS)) -> Finding:
    """See that no session holds an old snapshot."""
    if found := stats.list_old_snapshots(connection, older_than=older_than):
        return wrong("postgres snapshots", "; ".join(map(str, found)))
    return ok("postgres snapshots", f"none older than {older_than.total_seconds():.0f} s")


def connections(connection: Connection) -> Finding:
    """See that there are connections left."""
    facts = server.read_facts(connection)
    found = f"{facts.connections} of {facts.most_connections} in use"
    if facts.connections > facts.most_connections * FULL:
        return wrong("postgres connections", f"{found}: raise max_connections, or run fewer processes")
    return ok("postgres connections", found)


def days(connection: Connection) -> Finding:
    """See that the days ahead have their tables."""
    found = stats.read_days(connection)
    ahead = -1 if found.newest is None else (found.newest - found.today).days
    if ahead < DAYS_AHEAD - 1:
        advice = "does a housekeeping worker run, and does its role own the tables? Their owner runs `pipeline migrate`"
        return wrong("postgres days", f"{max(0, ahead)} of {DAYS_AHEAD} coming days have tables: {advice}")
    return ok("postgres days", f"{found.oldest} to {found.newest}")
