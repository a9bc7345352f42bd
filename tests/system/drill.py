"""A night's drill: twelve faults, the alert that tells of each, and the command of the runbook that puts it right.

`python -m tests.system.drill` runs it and prints a table; `--write` puts that into deploy/RUNBOOK.md. Two stacks, each
with a Prometheus of its own, with the rules as they are shipped: every `for` is as long as in production, only the
figures are looked at every second instead of every ten. What takes ten minutes to be told runs beside the others.
As root on Linux the first stack has a small disk of its own; without, the full disk is left out, and said to be.

A fault of the drill is a function that causes it, waits for its alert, runs the command, and waits until the alert
ends. In the end everything that was acknowledged must be in Postgres, and handled.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx
import psycopg

from tests import runbook
from tests.launching import ROOT, free_port
from tests.moveris import other
from tests.system.ledger import EFFECTS, account
from tests.system.operator import run, started
from tests.system.prometheus import prometheus
from tests.system.provider import Load
from tests.system.stack import Stack
from tests.system.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.system.prometheus import Prometheus
    from tests.system.provider import Endpoint

log: Final = logging.getLogger(__name__)

RUNBOOK: Final = ROOT / "deploy" / "RUNBOOK.md"
MARKS: Final = ("<!-- drill -->\n", "<!-- /drill -->")
MEGABYTES: Final = 500
"""Of the small disk."""
BUSY: Final = "acme"
"""A tenant whose events go on through everything."""
TENANTS: Final = (BUSY, "slow", "crowd", "broken", "poisoned", "rotated", "silent")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was seen of one fault.

    Attributes:
        told: seconds until its alerts fired.
        command: of the runbook, as it was run.
        ended: seconds from the command to the end of the alerts.
    """

    fault: str
    about: str
    alerts: tuple[str, ...]
    told: float
    command: str
    ended: float


class Drill:
    """One stack under watch, a load that goes on through everything, and what was acknowledged."""

    def __init__(self, stack: Stack, watching: Prometheus, mended: Path) -> None:
        self.stack = stack
        self.watching = watching
        self.mended = mended
        self.rows: list[Row] = []
        self.acknowledged: list[str] = []
        self.poisoned: list[str] = []
        self._lock = threading.Lock()

    def endpoint(self, tenant: str, *, secret: bytes | None = None) -> Endpoint:
        """Return an endpoint of a tenant, with a client of its own: several threads post."""
        return replace(self.stack.endpoint(tenant, secret=secret), client=httpx.Client())

    def send(self, tenant: str, count: int, *, event: str = "drill.work") -> None:
        """Post events of a tenant until each is acknowledged."""
        endpoint = self.endpoint(tenant)
        ids = [endpoint.deliver(other(event)) for _ in range(count)]
        with self._lock:
            self.acknowledged += ids

    @contextmanager
    def fault(self, name: str, about: str, *alerts: str, seconds: float) -> Iterator[Callable[[str], None]]:
        """Wait until the alerts fire; the block puts the fault right, says by which command, and they have to end."""
        began = time.monotonic()
        self.watching.wait_for(alerts, seconds=seconds)
        told = time.monotonic() - began
        log.info("%s: %s after %.0f s", name, ", ".join(alerts), told)
        commands: list[str] = []
        began = time.monotonic()
        yield commands.append
        self.watching.wait_for_end(alerts, seconds=seconds + 700)
        ended = time.monotonic() - began
        log.info("%s: over after %.0f s", name, ended)
        row = Row(fault=name, about=about, alerts=alerts, told=told, command=commands[0], ended=ended)
        with self._lock:
            self.rows.append(row)

    def plant_history(self, *tenants: str) -> None:
        """Let endpoints have sent an event a minute at this time of yesterday, and the last one twenty minutes ago."""
        values = {"tenants": list(tenants)}
        self.stack.query(
            "INSERT INTO tallies_hourly (hour, tenant, provider, handler, outcome, bucket, count, seconds)"
            " SELECT date_trunc('hour', now()) - interval '1 day' + n * interval '1 hour', tenant, 'moveris', '',"
            " 'stored', 1, 60, 1 FROM unnest(%(tenants)s::text[]) AS t(tenant), generate_series(-1, 1) AS n",
            values,
        )
        self.stack.query(
            "INSERT INTO endpoint_activity (tenant, provider, first_at, last_at, usual_per_hour)"
            " SELECT tenant, 'moveris', now() - interval '2 days', now() - interval '20 min', 60"
            " FROM unnest(%(tenants)s::text[]) AS t(tenant)",
            values,
        )


# The faults ----------------------------------------------------------------------------------------------------------


def kill(drill: Drill) -> None:
    """The ingest worker is killed and not started again."""
    (command,) = (it for it in runbook.commands("PipelineNotDraining") if it.startswith("celery"))
    with (
        drill.stack.held_down("ingest", by=signal.SIGKILL),
        ExitStack() as exits,
        drill.fault("kill", kill.__doc__ or "", "PipelineNotDraining", seconds=90) as by,
    ):
        exits.enter_context(started(drill.stack, command))
        by(command)
    until(lambda: not drill.watching.query("pipeline_workers_lost > 0"), seconds=90, what="the successor")
    drill.watching.wait_for_end({"PipelineWorkerGone"}, seconds=90)


def hang(drill: Drill) -> None:
    """The main process of the handler worker stands still, and so does what supervises it."""
    (command,) = runbook.commands("PipelineWorkerGone")
    worker = drill.stack.main("handlers")
    drill.stack.supervisor.suspend()
    try:
        worker.suspend()
        with drill.fault("hang", hang.__doc__ or "", "PipelineWorkerGone", seconds=90) as by:
            until(lambda: ends_a_worker(drill.stack, command), seconds=120, what="a worker that hangs", every=1)
            drill.stack.supervisor.resume()
            by(command)
        assert not worker.is_running() or drill.stack.main("handlers").pid != worker.pid
    finally:
        drill.stack.supervisor.resume()


def ends_a_worker(stack: Stack, command: str) -> bool:
    """Run the command that ends a worker which hangs; say whether there was one to end."""
    try:
        run(stack, command)
    except AssertionError:
        return False
    return True


def lock(drill: Drill) -> None:
    """A session holds a lock on the table of receipts, and does nothing."""
    (command,) = (it for it in runbook.commands("PipelineNotDraining") if it.startswith("psql"))
    with psycopg.connect(database_url(drill.stack), application_name="somebody") as session:
        session.execute("LOCK TABLE receipts")
        with drill.fault("lock", lock.__doc__ or "", "PipelineNotDraining", seconds=90) as by:
            run(drill.stack, command)
            by(command)
        assert session.broken or _is_ended(session)


def _is_ended(session: psycopg.Connection[tuple[object, ...]]) -> bool:
    try:
        session.execute("SELECT 1")
    except psycopg.OperationalError:
        return True
    return False


def fill(drill: Drill) -> None:
    """Redis may not use more memory than it does."""
    (command,) = runbook.commands("PipelinePostgresAway")
    with drill.stack.redis() as redis:
        redis.config_set("maxmemory", int(int(redis.info("memory")["used_memory"]) * 1.1))
    with drill.fault("fill", fill.__doc__ or "", "PipelineEventsRefused", "PipelineRedisFull", seconds=120) as by:
        run(drill.stack, command)
        by(command)


def demote(drill: Drill) -> None:
    """Redis is made a replica of a server that is not there, and refuses every write."""
    command = runbook.commands("PipelineEventsRefused")[-1]
    assert "REPLICAOF NO ONE" in command
    with drill.stack.redis() as redis:
        redis.replicaof("127.0.0.1", str(free_port()))
    with drill.fault("demote", demote.__doc__ or "", "PipelineEventsRefused", seconds=120) as by:
        run(drill.stack, command)
        by(command)


def poison(drill: Drill) -> None:
    """A provider sends events that do not fit the model."""
    look, dry, again = (*runbook.commands("PipelineRejections"),)
    endpoint = drill.endpoint("poisoned")
    drill.poisoned += [endpoint.deliver(other("verification.completed", number=n)) for n in range(300)]
    with drill.fault("poison", poison.__doc__ or "", "PipelineRejections", seconds=60) as by:
        assert "schema_mismatch" in run(drill.stack, named(look, "poisoned"))
        run(drill.stack, dry, again)
        by(again)


def dead_handler(drill: Drill) -> None:
    """A handler fails for good from its first event on."""
    *look, retry = runbook.commands("PipelineDeadDeliveries")
    drill.send("broken", 20)
    with drill.fault("dead handler", dead_handler.__doc__ or "", "PipelineDeadDeliveries", seconds=60) as by:
        seen = run(drill.stack, *(named(it, "broken") for it in look))
        assert "the account service says 410" in seen
        drill.mended.touch()
        run(drill.stack, named(retry, "broken"))
        by(retry)


def slow_handler(drill: Drill) -> None:
    """A handler takes five seconds, and more events come than its slots can take."""
    drill.send("slow", 200)
    more_slots(drill, "slow handler", slow_handler.__doc__ or "")


def flood(drill: Drill) -> None:
    """A tenant sends in a minute what its handlers take a quarter of an hour for."""
    drill.send("crowd", 3500)
    more_slots(drill, "flood", flood.__doc__ or "")


def more_slots(drill: Drill, name: str, about: str) -> None:
    """Wait for what tells of due deliveries that wait for long, and start another worker."""
    (command,) = runbook.commands("PipelineHandlersStopped")
    with ExitStack() as exits, drill.fault(name, about, "PipelineDeliveriesOld", seconds=500) as by:
        exits.enter_context(started(drill.stack, command))
        by(command)


def rotate(drill: Drill) -> None:
    """A provider signs with a new secret that nobody has registered."""
    command = runbook.commands("PipelineEndpointRefused")[-1]
    file = command.rpartition(" < ")[2]
    with (
        Load(drill.endpoint("rotated", secret=b"the new secret"), rate=0.2, event="effect.anyone") as load,
        drill.fault("rotate", rotate.__doc__ or "", "PipelineEndpointRefused", seconds=720) as by,
    ):
        (drill.stack.home / file).write_text("the new secret\n")
        run(drill.stack, f"cd {drill.stack.home}", named(command, "rotated"))
        by(command)
    assert load.acknowledged
    drill.acknowledged += load.acknowledged


def silent_provider(drill: Drill) -> None:
    """A provider that sends an event a minute at this hour has sent nothing for twenty minutes."""
    look, command = runbook.commands("PipelineEndpointSilent")
    with drill.fault("silent provider", silent_provider.__doc__ or "", "PipelineEndpointSilent", seconds=400) as by:
        run(drill.stack, named(look, "silent"), named(command, "silent"))
        by(command)


def full_disk(drill: Drill) -> None:
    """The disk of Redis and Postgres is full."""
    filler = drill.stack.home / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1_000_000))
    with drill.fault("full disk", full_disk.__doc__ or "", "PipelineEventsRefused", seconds=180) as by:
        run(drill.stack, f"rm {filler}")
        by("rm filler")


ONE: Final = ((slow_handler,), (dead_handler,), (poison,), (kill, hang, lock, fill, demote))
"""On the first stack: each line in a thread of its own. `full_disk` follows them."""
OTHER: Final = ((flood,), (rotate,), (silent_provider,))
"""On the second stack."""
ALL: Final = (
    kill,
    hang,
    fill,
    lock,
    demote,
    rotate,
    flood,
    poison,
    slow_handler,
    dead_handler,
    silent_provider,
    full_disk,
)


# The run -------------------------------------------------------------------------------------------------------------


def named(command: str, tenant: str) -> str:
    """Return a command of the runbook about a tenant; its examples are about acme and acme.grant."""
    return command.replace("acme.grant", f"{tenant}.grant").replace("acme", tenant)


def database_url(stack: Stack) -> str:
    """Return where the stack's Postgres is."""
    return run(stack, 'echo "$DATABASE_URL"').strip()


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Put a file system of its own under the folder, if we may; say whether we did."""
    size = f"size={MEGABYTES}m,mode=755"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True, check=False
    )
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def drill_one_stack(threads: Sequence[Sequence[Callable[[Drill], None]]], *, disk: bool) -> list[Row]:
    """Run faults on a stack of their own, and look for everything that was acknowledged meanwhile."""
    home = Path(tempfile.mkdtemp(prefix="pipeline-drill-", dir="/tmp"))
    watched = Path(tempfile.mkdtemp(prefix="pipeline-drill-watch-", dir="/tmp"))
    home.chmod(0o755)
    with ExitStack() as exits:
        exits.callback(shutil.rmtree, watched, ignore_errors=True)
        exits.callback(shutil.rmtree, home, ignore_errors=True)
        has_disk = exits.enter_context(small_disk(home)) if disk else False
        mended = watched / "mended"
        settings = {"INGRESS_WORKERS": "1", "HANDLER_WORKERS": "2", "LOG_LEVEL": "info", "EXPORTER_SECONDS": "1"}
        settings |= {"INGRESS_METRICS_PORT": str(free_port()), "DRILL_MENDED": str(mended)}
        stack = exits.enter_context(Stack(home, handlers=("effects", "drill"), environ=settings))
        stack.query(EFFECTS)
        stack.add_tenants(*TENANTS)
        watching = exits.enter_context(
            prometheus(
                watched, exporter_url=stack.exporter_url, ingress_ports=stack.ingress_metrics_ports, interval="1s"
            )
        )
        drill = Drill(stack, watching, mended)
        drill.plant_history("rotated", "silent")
        with Load(drill.endpoint(BUSY), rate=5, event="effect.anyone") as load:
            with ThreadPoolExecutor(max(1, len(threads))) as pool:
                running = [pool.submit(lambda faults: [it(drill) for it in faults], faults) for faults in threads]
            for it in running:
                it.result()
            if has_disk:
                full_disk(drill)
            elif disk:
                log.warning("full disk: left out, since mounting a small one needs root on Linux")
        drill.acknowledged += load.acknowledged
        settle(drill)
    return drill.rows


def settle(drill: Drill) -> None:
    """Wait until everything that was acknowledged is stored, and every delivery has succeeded."""
    until(lambda: account(drill.stack, drill.acknowledged).is_settled, seconds=300, what="the end of all work", every=1)
    found = account(drill.stack, drill.acknowledged)
    assert found.failed == 0, found
    rejected = "SELECT count(*) AS n FROM events WHERE id = ANY (%s::uuid[]) AND state = 'rejected'"
    (row,) = drill.stack.query(rejected, [drill.poisoned])
    assert row["n"] == len(drill.poisoned)
    log.info("%d events acknowledged, none lost", len(drill.acknowledged) + len(drill.poisoned))


def drill_all(only: Sequence[str] = ()) -> list[Row]:
    """Run the faults on both stacks at once; return what was seen, in the order of the drill."""

    def chosen(threads: Sequence[Sequence[Callable[[Drill], None]]]) -> list[list[Callable[[Drill], None]]]:
        lines = [[it for it in line if not only or it.__name__ in only] for line in threads]
        return [line for line in lines if line]

    disk = not only or full_disk.__name__ in only
    parts = [(chosen(ONE), disk), (chosen(OTHER), False)]
    with ThreadPoolExecutor(len(parts)) as pool:
        running = [pool.submit(drill_one_stack, threads, disk=disk) for threads, disk in parts if threads or disk]
    return [row for it in running for row in it.result()]


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown, in the order of the drill."""
    order = [it.__doc__ for it in ALL]
    lines = ["| fault | what happens | alert | told after | put right by | ended after |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for it in sorted(rows, key=lambda row: order.index(row.about)):
        command = it.command.replace("|", "\\|")
        told = f"{', '.join(it.alerts)} | {it.told:.0f} s"
        lines.append(f"| {it.fault} | {it.about.rstrip('.')} | {told} | `{command}` | {it.ended:.0f} s |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.system.drill", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--only", default="", help="comma-separated faults, such as kill,full_disk")
    parser.add_argument("--write", action="store_true", help="put the table into deploy/RUNBOOK.md")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    rows = drill_all([it for it in chosen.only.split(",") if it])
    sys.stdout.write(table(rows))
    if chosen.write:
        before, _, rest = RUNBOOK.read_text().partition(MARKS[0])
        RUNBOOK.write_text(before + MARKS[0] + table(rows) + MARKS[1] + rest.partition(MARKS[1])[2])
    return 0


if __name__ == "__main__":
    sys.exit(main())
