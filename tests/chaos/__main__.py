"""`python -m tests.chaos`: faults, fuzz, slow clients, constant time, soak; see --help.

Guarantees: ends with status 1 if anything that must not happen has happened. Refuses: a fault that does not exist.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tests.chaos import constant_time, picture, report, slow_clients, soak
from tests.chaos.faults import load
from tests.chaos.fuzz import MEMORY_MB, count_forged, fuzz
from tests.chaos.reconcile import wait_until_quiet
from tests.chaos.run import Plan, measure_capacity, run
from tests.chaos.stack import Stack
from tests.chaos.watch import errors_in, grown, memory_of

if TYPE_CHECKING:
    from collections.abc import Callable

CONSOLE = Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def main() -> int:
    """Read the command line and do what it says; return the status."""
    parser = argparse.ArgumentParser(prog="make chaos", description="Kill, cut and fuzz the real pipeline.")
    parser.add_argument("what", nargs="?", default="faults", choices=[*DOES, "list"])
    parser.add_argument(
        "--seconds", type=float, help="of load (faults: 600, and until each has come; soak: 1200; slow: 12)"
    )
    parser.add_argument("--rounds", type=int, default=0, help="inject each fault so often, alone, instead")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="decides faults, moments and load")
    parser.add_argument("--faults", default="", help="comma-separated names; `list` shows them")
    parser.add_argument(
        "--rate", type=float, default=0.0, help="events a second; default: a third of what is possible; slow: 40"
    )
    parser.add_argument("--requests", type=int, default=200_000, help="of the fuzz run")
    parser.add_argument("--clients", type=int, default=500, help="slow ones")
    parser.add_argument(
        "--turns", type=int, default=5, help="of --seconds without slow clients and as many beside them"
    )
    parser.add_argument("--out", type=Path, default=Path(".local/chaos"), help="folder of report.json and timeline.svg")
    chosen = parser.parse_args()
    known = load()
    names = tuple(name.strip() for name in chosen.faults.split(",") if name.strip()) or tuple(known)
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"no fault {unknown[0]!r}; `python -m tests.chaos list` shows them")
    chosen.faults = names
    if chosen.what == "list":
        for fault in known.values():
            CONSOLE.print(f"{fault.name:28} {fault.about}")
        return 0
    CONSOLE.print(f"seed {chosen.seed}")
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=CONSOLE, transient=True
    ) as progress:
        task = progress.add_task("starting the stack", total=1.0)

        said = ""

        def on_step(share: float, what: str) -> None:
            nonlocal said
            progress.update(task, completed=share, description=what[:60].ljust(60))
            if not CONSOLE.is_terminal and what != said and share < 1:
                CONSOLE.print(f"{share:4.0%} {what}")
            said = what

        return uvloop.run(DOES[chosen.what](chosen, on_step))


async def faults(chosen: argparse.Namespace, on_step: Callable[[float, str], None]) -> int:
    """Inject faults."""
    async with Stack() as stack:
        on_step(0, "measuring what this machine can do")
        rate = chosen.rate or min(150.0, 0.35 * await measure_capacity(stack, events=400, seconds=120))
        plan = Plan(
            faults=chosen.faults, seconds=chosen.seconds or 600, rounds=chosen.rounds, rate=rate, seed=chosen.seed
        )
        CONSOLE.print(f"{rate:.0f} events a second, {len(plan.faults)} faults")
        result = await run(stack, plan, on_step=on_step)
    report.show(result, CONSOLE)
    report.write(result, chosen.out)
    (chosen.out / "timeline.svg").write_text(picture.draw(result))
    CONSOLE.print(f"{chosen.out / 'report.json'}, {chosen.out / 'timeline.svg'}")
    return 1 if report.verdict(result) else 0


async def fuzz_it(chosen: argparse.Namespace, on_step: Callable[[float, str], None]) -> int:
    """Fuzz the HTTP surface."""
    async with Stack(settings={"INGRESS_BODY_TIMEOUT": "2"}, with_clock=False) as stack:
        total = chosen.requests
        on_step(0, "20,000 or a tenth as many before, until pools and caches are filled and pages are no longer shared")
        warm_up = await fuzz(
            stack.endpoints(),
            count=max(total // 10, 20_000),
            seed=chosen.seed + 1,
            patience=30,
            memory=lambda: 0,
            on_step=lambda _: None,
        )
        before = memory_of(stack, "ingress")
        tally = await fuzz(
            stack.endpoints(),
            count=total,
            seed=chosen.seed,
            patience=30,
            memory=lambda: sum(memory_of(stack, "ingress").values()),
            on_step=lambda n: on_step(n / total, f"{n:,}"),
        )
        after = memory_of(stack, "ingress")
        await wait_until_quiet(stack, seconds=300, on_step=lambda what: on_step(1.0, what))
        forged = await count_forged(stack, warm_up.signed | tally.signed)
        errors = [error for name in ("ingress", "ingest") for error in errors_in(stack.logs / f"{name}.log")]
    CONSOLE.print(f"{tally.requests:,} requests in {tally.seconds:.0f} s: {dict(sorted(tally.statuses.items()))}")
    growing = grown(before, after)
    CONSOLE.print(f"(0: closed without an answer); reasons of the 503: {dict(tally.reasons) or 'there were none'}")
    CONSOLE.print(f"hung: {tally.hung[:5]}, unexpected: {tally.unexpected[:5]}, exceptions logged: {errors[:3]}")
    CONSOLE.print(f"memory of the ingress processes, MB: {[*before.values()]} before, {[*after.values()]} after")
    CONSOLE.print(f"grown: {growing or 'none'}; stored though nobody had signed it: {forged}")
    rose = tally.most_memory - sum(before.values())
    beside = slow_clients.latency(tally.beside)
    CONSOLE.print(f"signed events beside it: {beside}; memory while it ran: {rose:.1f} MB more at most")
    harmed = rose > MEMORY_MB or beside.p99 > 1000 or beside.failed > beside.requests / 1000
    if busy := tally.reasons.total() > total / 1000:
        CONSOLE.print("more than one in a thousand was answered 503")
    return 1 if tally.hung or tally.unexpected or errors or growing or busy or forged or harmed else 0


async def slow(chosen: argparse.Namespace, on_step: Callable[[float, str], None]) -> int:
    """Measure normal traffic beside slow clients."""
    async with Stack(with_clock=False) as stack:
        on_step(0, f"{chosen.clients} slow clients beside normal traffic")
        before = memory_of(stack, "ingress")
        found = await slow_clients.compare(
            stack.endpoints(),
            clients=chosen.clients,
            seconds=chosen.seconds or 12,
            turns=chosen.turns,
            rate=chosen.rate or 40,  # a machine that is busy with the traffic itself would measure its queues
            spread=10,
            on_turn=lambda turn: on_step(turn / chosen.turns, f"{turn} of {chosen.turns} turns"),
        )
        after = memory_of(stack, "ingress")
    for turn in found.turns:
        without, beside = slow_clients.latency(turn.without), slow_clients.latency(turn.beside)
        CONSOLE.print(
            f"p50 {without.p50:.1f} and {beside.p50:.1f} ms, p99 {without.p99:.1f} and {beside.p99:.1f} ms; {turn.held}"
            f" slow clients were held, and took {turn.busy:.0%} of a core themselves"
        )
    CONSOLE.print(f"without: {found.without}\nbeside {found.held:.0f}: {found.beside}\np99 ratio: {found.ratio:.2f}")
    CONSOLE.print(f"memory of the ingress processes, MB: {[*before.values()]} before, {[*after.values()]} after")
    held = found.held >= 0.9 * chosen.clients
    return 1 if found.ratio > 2 or found.beside.failed or not held else 0


async def timing(chosen: argparse.Namespace, on_step: Callable[[float, str], None]) -> int:
    """Measure whether refusals tell where a signature differs."""
    on_step(0, "inside one process")
    found = constant_time.inside(pairs=200_000, seed=chosen.seed)
    async with Stack(with_clock=False) as stack:
        found["over HTTP"] = await constant_time.over_http(
            stack.endpoints()[0],
            pairs=10_000,
            seed=chosen.seed,
            on_step=lambda pair: on_step(pair / 10_000, "over HTTP"),
        )
    for name, difference in found.items():
        CONSOLE.print(f"{name}: {difference}; can be told apart: {difference.can_be_told}")
    return 1 if found["verify"].can_be_told or found["over HTTP"].can_be_told or not found["early"].can_be_told else 0


async def soak_it(chosen: argparse.Namespace, on_step: Callable[[float, str], None]) -> int:
    """Watch memory and file descriptors under half of the possible load."""
    async with Stack(with_clock=False) as stack:
        rate = chosen.rate or 0.5 * await measure_capacity(stack, events=600, seconds=120)
        CONSOLE.print(f"{rate:.0f} events a second")
        found = await soak.soak(stack, seconds=chosen.seconds or 1200, rate=rate, seed=chosen.seed, on_step=on_step)
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "soak.json").write_text(json.dumps(found.as_json(), indent=2))
    found.show(CONSOLE)
    return 0 if found.is_flat else 1


DOES = {"faults": faults, "fuzz": fuzz_it, "slow": slow, "timing": timing, "soak": soak_it}


if __name__ == "__main__":
    sys.exit(main())
