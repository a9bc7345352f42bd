"""How the commands `pause` and `resume` of tenants and of handlers do it."""

from datetime import datetime

from deploy.cli.connections import database
from deploy.cli.output import say
from workers.store import pauses
from workers.store.limits import ANY


def pause_deliveries(*, tenant: str = ANY, handler: str = ANY, until: datetime | None) -> None:
    """Pause them, and say what was taken back."""
    with database() as connection:
        returned = pauses.pause(connection, tenant=tenant, handler=handler, until=until)
    end = "" if until is None else f" until {until:%Y-%m-%d %H:%M:%S} UTC"
    taken = "1 delivery was" if returned == 1 else f"{returned} deliveries were"
    back = f"; {taken} taken back from the queue" if returned else ""
    row = {"tenant": tenant, "handler": handler, "paused": True, "until": until, "taken_back": returned}
    say(row, f"paused {_name(tenant, handler)}{end}; what runs goes on to its end{back}")


def resume_deliveries(*, tenant: str = ANY, handler: str = ANY) -> None:
    """Resume them; say what is still paused."""
    with database() as connection:
        was_paused = pauses.resume(connection, tenant=tenant, handler=handler)
        left = pauses.list_pauses(connection, tenant=tenant, handler=handler)
    lines = [f"resumed {_name(tenant, handler)}" if was_paused else f"{_name(tenant, handler)} was not paused"]
    lines += [f"still paused: {_name(it.tenant, it.handler)}, {it}" for it in left]
    say({"tenant": tenant, "handler": handler, "paused": False, "was_paused": was_paused}, *lines)


def _name(tenant: str, handler: str) -> str:
    if handler == ANY:
        return tenant
    return handler if tenant == ANY else f"{handler} for {tenant}"
