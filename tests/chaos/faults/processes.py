"""Processes that are killed, stopped and restarted at any moment."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

from tests.chaos.faults import Missed, fault
from tests.chaos.servers import until

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.chaos.faults import Inject
    from tests.chaos.stack import Stack

WORKERS = ("ingest", "handlers", "express", "housekeeping")
PATIENCE = 20
"""Seconds in which a victim that is being started again must be there."""
GRACE = 40.0
"""Seconds in which a service must have ended after SIGTERM: a handler's timeout, and what Celery's pool may add."""


async def choose_child(stack: Stack, name: str, chance: random.Random) -> psutil.Process:
    """Return one of the children of a service, once there are any."""
    for _ in range(PATIENCE * 10):
        if children := stack.children(name):
            return chance.choice(children)
        await asyncio.sleep(0.1)
    raise Missed(f"{name} has no children")


async def need_main(stack: Stack, name: str) -> psutil.Process:
    """Return the main process of a service, once there is one."""
    for _ in range(PATIENCE * 10):
        if (main := stack.main(name)) is not None:
            return main
        await asyncio.sleep(0.1)
    raise Missed(f"{name} does not run")


def kills_main(name: str) -> Inject:
    async def inject(stack: Stack, chance: random.Random) -> None:
        del chance
        with suppress(psutil.NoSuchProcess):
            (await need_main(stack, name)).kill()

    return inject


def kills_child(name: str) -> Inject:
    async def inject(stack: Stack, chance: random.Random) -> None:
        with suppress(psutil.NoSuchProcess):
            (await choose_child(stack, name, chance)).kill()

    return inject


fault("kill-ingress", "kill -9 of an ingress process")(kills_child("ingress"))
fault("kill-ingress-main", "kill -9 of the ingress's main process")(kills_main("ingress"))
for _name in WORKERS:
    fault(f"kill-{_name}-main", f"kill -9 of the main process of the {_name} worker")(kills_main(_name))
    fault(f"kill-{_name}-child", f"kill -9 of a child of the {_name} worker, at any moment")(kills_child(_name))
fault("kill-beat", "kill -9 of beat")(kills_main("beat"))


@fault("kill-supervisor", "kill -9 of the supervisor; `pipeline up` again", mixes=False)
async def kill_supervisor(stack: Stack, chance: random.Random) -> None:
    """Kill it, and start `pipeline up` again at once."""
    del chance
    stack.supervisor.kill()
    await stack.start_up()


@fault("rolling-restart", "SIGTERM of ingress and workers, one after the other, under load", mixes=False)
async def restart_in_turn(stack: Stack, chance: random.Random) -> None:
    """End each service by SIGTERM; it must be gone within the grace period, and come back."""
    del chance
    for name in ("ingress", *WORKERS, "beat"):
        main = await need_main(stack, name)
        main.terminate()
        await until(_gone(main), seconds=GRACE, what=f"the end of {name} after SIGTERM")
        await until(_back(stack, name, main.pid), seconds=40, what=f"a new {name}")
        await asyncio.sleep(1)


def _gone(process: psutil.Process) -> Callable[[], bool]:
    def look() -> bool:
        with suppress(psutil.NoSuchProcess):
            return bool(process.status() == psutil.STATUS_ZOMBIE)
        return True

    return look


def _back(stack: Stack, name: str, former: int) -> Callable[[], bool]:
    def look() -> bool:
        main = stack.main(name)
        return main is not None and main.pid != former

    return look


async def stop_for(process: psutil.Process, seconds: float) -> None:
    """Stop a process, and let it go on after so many seconds, if it still exists."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        process.send_signal(signal.SIGCONT)


@fault("stop-ingress", "SIGSTOP of an ingress process for 4 s, then SIGCONT")
async def stop_ingress(stack: Stack, chance: random.Random) -> None:
    """Stop one; the others go on, its own clients wait."""
    await stop_for(await choose_child(stack, "ingress", chance), 4)


@fault("stop-drain", "SIGSTOP of an ingest child for 16 s, beyond every lease, then SIGCONT")
async def stop_drain(stack: Stack, chance: random.Random) -> None:
    """Stop a drain wherever it is; what it holds is taken over, and it comes back."""
    await stop_for(await choose_child(stack, "ingest", chance), 16)


@fault("stop-housekeeping", "SIGSTOP of the sweeper for 12 s, then SIGCONT")
async def stop_housekeeping(stack: Stack, chance: random.Random) -> None:
    """Stop the sweeper wherever it is."""
    await stop_for(await choose_child(stack, "housekeeping", chance), 12)
