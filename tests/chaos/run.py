"""One run: load, faults at random moments, quiet, reconciliation.

The seed decides faults, moments and load (the machine decides the rest). The next faults come when the pipeline has
recovered from those before.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Final

from tests.chaos.faults import FAULTS, Missed
from tests.chaos.flood import Flood
from tests.chaos.load import FRESH, Load
from tests.chaos.reconcile import Account, Injection, is_recovered, reconcile, wait_until_quiet
from tests.chaos.stack import FLOODING, RATED, TENANTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.chaos.faults import Fault
    from tests.chaos.load import Sent
    from tests.chaos.stack import Stack

SLOWEST: Final = 90.0
"""Seconds after which a recovery is not waited for any more; it is a failure of the run."""
PATIENCE: Final = 25.0
"""Seconds after which the load is halved while a recovery is waited for; lost leases take 13.5."""
QUIET: Final = 180.0
LEARN: Final = 4.0
"""Seconds of flood before the load: how long its handler takes is not known before it has run."""
CALM: Final = 8.0
"""Seconds of load and flood before the first fault."""
BESIDE_FLOOD: Final = 3.0
"""Seconds after which 99 of 100 events of the other tenants must be handled while no fault acts; the flood's own work
waits for more than ten."""
RATED_SHARE: Final = 0.7
"""What the rate of a tenant with one admits of what it is sent."""
TRIES: Final = 3
"""Times that a fault alone may look for its victim."""
MOST: Final = 900.0
"""Seconds of mixtures after which a fault that never found its victim is given up."""
ALONE: Final = 0.5
"""Share of the time for faults one by one; the rest is for mixtures, which wait for several recoveries at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run does.

    Attributes:
        faults: names.
        seconds: of load; ignored if `rounds` is given.
        rounds: times that each fault is injected alone, without mixtures; 0: as many as there is time for.
        rate: events a second.
        seed: decides everything that we decide.
    """

    faults: tuple[str, ...]
    seconds: float
    rounds: int
    rate: float
    seed: int


@dataclass(slots=True, kw_only=True)
class Result:
    """What came of it.

    Attributes:
        plan: that was followed.
        began: Unix seconds when the load began.
        ended: when it ended.
        quiet: seconds until everything was handled after the end of the load.
        injections: in order.
        attempts: faults that found no victim; they may have disturbed what they looked at.
        sent: every request.
        total: account of all requests.
        by_fault: accounts of the requests sent between a fault's beginning and its recovery.
        missed: faults that found no victim, once for each time, and why.
        broken: what a fault expected and did not see, such as an end within the grace period.
        stored: Unix seconds at which events were stored.
        handled: Unix seconds of the first effect of each event that the load was acknowledged.
        waits: seconds from the answer to the first effect, of quiet tenants' events that no fault met; in order.
    """

    plan: Plan
    began: float = 0.0
    ended: float = 0.0
    quiet: float = 0.0
    injections: list[Injection] = field(default_factory=list)
    attempts: list[Injection] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    total: Account
    by_fault: dict[str, Account] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    stored: list[float] = field(default_factory=list)
    handled: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    @property
    def beside_flood(self) -> float:
        """The 99th percentile of the waits."""
        return self.waits[int(0.99 * (len(self.waits) - 1))] if self.waits else float("inf")

    @property
    def never(self) -> list[str]:
        """Faults that should have been injected and were not."""
        return sorted(set(self.plan.faults) - {one.name for one in self.injections})

    @property
    def late(self) -> list[str]:
        """Faults after which the pipeline was not seen to recover in time."""
        return sorted({one.name for one in self.injections if one.recovered is None})


async def run(stack: Stack, plan: Plan, *, on_step: Callable[[float, str], None]) -> Result:
    """Do a run on a stack that is up.

    1. Let one tenant flood, which it does until the load ends, and look at how the others fare; one has a rate.
    2. Each fault alone: first those that do not mix, all of them, then the others until half of the time is over.
    3. Those that mix, two or three at a time, until the end and until each has come at least once. With rounds
       instead of seconds, each alone and no mixtures.
    4. End the load, wait until everything is quiet, reconcile.

    Args:
        stack: with no load on it.
        plan: what to do.
        on_step: told the share that is done (0 to 1) and what happens now.
    """
    chance = random.Random(plan.seed)  # noqa: S311 - a seed that can be given again is what is wanted
    load = Load(stack.endpoints(), rate=plan.rate, chance=random.Random(chance.random()))  # noqa: S311 - the same
    session = _Session(stack, load, plan, on_step)
    flood = Flood(stack, load)
    await stack.limit(RATED, rate=RATED_SHARE * plan.rate / len(TENANTS), burst=5)
    flood.start()
    on_step(0, "flood, then load beside it")
    await asyncio.sleep(LEARN)
    load.start()
    await asyncio.sleep(CALM)
    await session.inject_alone(chance)
    if not plan.rounds:
        await session.inject_mixtures(chance)
    await flood.stop()
    await load.stop()
    result = session.result
    result.ended = time.time()
    on_step(1.0, "waiting until everything is handled")
    try:
        result.quiet = await wait_until_quiet(stack, seconds=QUIET, on_step=lambda what: on_step(1.0, what))
    except AssertionError as stuck:  # what is stuck is to be seen in the report
        result.quiet = QUIET
        result.broken.append(str(stuck))
    on_step(1.0, "comparing every response with Postgres")
    await _account(stack, load, result)
    return result


async def measure_capacity(stack: Stack, *, events: int, seconds: float) -> float:
    """Return the events a second that this machine handles now, from a burst of so many events.

    Raises:
        AssertionError: they are not handled in time.
    """
    burst = Load(stack.endpoints(), rate=events / 2, chance=random.Random(0))  # noqa: S311 - any events will do
    started = time.monotonic()
    burst.start()
    await asyncio.sleep(2)
    await burst.stop()
    await wait_until_quiet(stack, seconds=seconds, on_step=lambda _: None)
    return len(burst.sent) / (time.monotonic() - started)


class _Session:
    """The part of a run during which there is load."""

    def __init__(self, stack: Stack, load: Load, plan: Plan, on_step: Callable[[float, str], None]) -> None:
        self._stack = stack
        self._load = load
        self._plan = plan
        self._on_step = on_step
        self._faults = [FAULTS[name] for name in plan.faults]
        self.result = Result(plan=plan, began=time.time(), total=Account())

    async def inject_alone(self, chance: random.Random) -> None:
        """Inject one after the other, each until it is recovered; those that do not mix come first."""
        until = self.result.began + self._plan.seconds * (ALONE if any(f.mixes for f in self._faults) else 1)
        for number in range(self._plan.rounds or 1_000_000):
            order = sorted(chance.sample(self._faults, len(self._faults)), key=lambda fault: fault.mixes)
            for place, fault in enumerate(order):
                if not self._plan.rounds and time.time() > until and (number or fault.mixes):
                    return
                done = (number + place / len(order)) / self._plan.rounds if self._plan.rounds else self._share()
                self._on_step(done, fault.name)
                await asyncio.sleep(chance.uniform(0.5, 2))
                for _ in range(TRIES):
                    if await self._inject([fault], chance):
                        break

    async def inject_mixtures(self, chance: random.Random) -> None:
        """Inject two or three at a time, at random moments; those that came least often so far come first."""
        mixing = [fault for fault in self._faults if fault.mixes]
        until, most = self.result.began + self._plan.seconds, time.time() + MOST
        while len(mixing) > 1 and (time.time() < until or (self.result.never and time.time() < most)):
            times = Counter(one.name for one in self.result.injections)
            rarest = sorted(chance.sample(mixing, len(mixing)), key=lambda fault: times[fault.name])
            chosen = rarest[: chance.choice([2, 2, 3])]
            self._on_step(self._share(), " + ".join(fault.name for fault in chosen))
            await asyncio.sleep(chance.uniform(0.5, 2))
            await self._inject(chosen, chance)

    def _share(self) -> float:
        return min(1.0, (time.time() - self.result.began) / self._plan.seconds)

    async def _inject(self, faults: Sequence[Fault], chance: random.Random) -> bool:
        """Inject at once or shortly after each other, then wait for the recovery; say whether any found its victim."""

        async def one(fault: Fault, wait: float, mine: random.Random) -> tuple[Injection, bool]:
            await asyncio.sleep(wait)
            injection, has_hit = Injection(name=fault.name, began=time.time()), True
            try:
                await fault.inject(self._stack, mine)
            except Missed as why:
                self.result.missed.append(f"{fault.name}: {why}")
                has_hit = False
            except Exception as error:  # noqa: BLE001 - whatever a fault met belongs in the report
                self.result.broken.append(f"{fault.name}: {type(error).__name__}: {error}")
            injection.ended = time.time()
            return injection, has_hit

        made = await asyncio.gather(
            *(
                one(fault, chance.uniform(0, 2) if number else 0.0, random.Random(chance.random()))  # noqa: S311 - seeded
                for number, fault in enumerate(faults)
            )
        )
        await self._recover([injection for injection, _ in made])
        injections = [injection for injection, has_hit in made if has_hit]
        self.result.injections += injections
        self.result.attempts += [injection for injection, has_hit in made if not has_hit]
        return bool(injections)

    async def _recover(self, injections: Sequence[Injection]) -> None:
        """Wait until everything acknowledged by the end of the faults is handled, and something newer too."""
        ended, first = max(injection.ended for injection in injections), len(self._load.sent)
        slower_at = ended + PATIENCE
        while time.time() < ended + SLOWEST:
            if time.time() > slower_at:  # a machine that others use too may do less than it did at the beginning
                self._load.rate, slower_at = max(2.0, self._load.rate / 2), slower_at + PATIENCE
            newer = [s.event_id for s in self._load.sent[first:] if s.event_id and _is_quiet(s)]
            if newer and await is_recovered(self._stack, ended, newer):
                for injection in injections:
                    injection.recovered = time.time()
                self._load.rate = min(self._plan.rate, self._load.rate * 2)
                break
            await asyncio.sleep(0.2)


async def _account(stack: Stack, load: Load, result: Result) -> None:
    """Reconcile, and read what the picture shows."""
    result.sent = load.sent
    windows = [(one.began - 0.2, one.recovered or one.ended + SLOWEST) for one in result.injections]
    result.total, *accounts = await reconcile(stack, load.sent, windows)
    for injection, account in zip(result.injections, accounts, strict=True):
        if injection.name in result.by_fault:
            result.by_fault[injection.name] = _sum(result.by_fault[injection.name], account)
        else:
            result.by_fault[injection.name] = account
    windows += [(one.began - 0.2, one.recovered or one.ended + SLOWEST) for one in result.attempts]
    result.waits = await _look_at_waits(stack, load.sent, windows)
    epoch = "extract(epoch FROM %s)::float8 AS at"
    stored = await stack.query(f"SELECT {epoch % 'stored_at'} FROM events")
    handled = await stack.query(
        f"SELECT {epoch % 'min(at)'} FROM chaos_effects WHERE event_id IN (SELECT id FROM chaos_sent) GROUP BY event_id"
    )
    result.stored = sorted(row["at"] for row in stored)
    result.handled = sorted(row["at"] for row in handled)


async def _look_at_waits(stack: Stack, sent: Sequence[Sent], windows: Sequence[tuple[float, float]]) -> list[float]:
    """Return how long events of quiet tenants waited that had all the time they may take before the next fault."""
    rows = await stack.query(
        "SELECT s.number, extract(epoch FROM min(e.at))::float8 AS at FROM chaos_sent AS s"
        " JOIN chaos_effects AS e ON e.event_id = s.id GROUP BY 1"
    )
    waits = []
    for request, at in ((sent[row["number"]], row["at"]) for row in rows):
        is_met = any(begin < request.at + BESIDE_FLOOD and request.at < end for begin, end in windows)
        if _is_quiet(request) and not is_met:
            waits.append(max(0.0, at - request.answered))
    return sorted(waits)


def _is_quiet(request: Sent) -> bool:
    """Say whether it is a new event of a tenant that does not flood."""
    return request.kind == FRESH and request.tenant != FLOODING


def _sum(one: Account, two: Account) -> Account:
    """Add two accounts."""
    for each in fields(one):
        setattr(one, each.name, getattr(one, each.name) + getattr(two, each.name))
    return one
