"""Every response compared with Postgres.

Each acknowledged id is looked for by itself, with the body that was sent for it; every body is looked for by its
digest. What does not fit is counted under the name of what it is.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.chaos.client import HUNG
from tests.chaos.load import FORGED, FRESH, MALFORMED
from tests.chaos.stack import FLOODING
from tests.chaos.wire import INBOX, OVERFLOW

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.chaos.load import Sent
    from tests.chaos.stack import Stack

HANDLERS: Final = ("chaos.inside", "chaos.outside")
"""Of every tenant; the flooding one has another."""


@dataclass(slots=True, kw_only=True)
class Injection:
    """One fault, once.

    Attributes:
        name: of the fault.
        began: Unix seconds.
        ended: nothing of it was left but its consequences.
        recovered: everything acknowledged by `ended` was stored and handled, and something newer too; None: not seen.
    """

    name: str
    began: float
    ended: float = 0.0
    recovered: float | None = None

    @property
    def recovery(self) -> float | None:
        """Seconds from the end of the fault to recovery."""
        return None if self.recovered is None else self.recovered - self.ended


@dataclass(slots=True, kw_only=True)
class Account:
    """What became of some requests.

    Attributes:
        requests: that were sent.
        outcomes: by status, or refused, cut, hung.
        codes: of those that were refused.
        acknowledged: answered 200.
        lost: acknowledged and neither an event nor an arrival, or acknowledged without an id.
        flushed: the same, but in the inbox when everything was flushed.
        altered: stored with another body than was sent, or for another tenant.
        twice: bodies stored as more than one event, or as an event and an arrival of itself.
        forged: stored though the signature was wrong.
        turned_away: signed rightly and answered that it is not.
        rejected: events with nothing wrong that are stored as rejected.
        misjudged: malformed events that are stored as accepted, or have deliveries.
        undelivered: accepted events without exactly one delivery for each handler.
        unfinished: deliveries of theirs that did not end as succeeded.
        missing: accepted events without an effect of the handler that writes with its outcome, or without a run of
            the other one that came to its end.
        doubled: accepted events with more than one.
        repeated: events for which the handler that writes outside ran more than once; it may.
        overlapped: events for which two of those runs overlapped.
    """

    requests: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    lost: int = 0
    flushed: int = 0
    altered: int = 0
    twice: int = 0
    forged: int = 0
    turned_away: int = 0
    rejected: int = 0
    misjudged: int = 0
    undelivered: int = 0
    unfinished: int = 0
    missing: int = 0
    doubled: int = 0
    repeated: int = 0
    overlapped: int = 0

    @property
    def server_errors(self) -> int:
        """Answers from 500 up but 503, which is the one that the ingress may give."""
        return sum(count for outcome, count in self.outcomes.items() if outcome[:1] == "5" and outcome != "503")

    @property
    def violations(self) -> int:
        """Everything that must be zero."""
        stored = self.lost + self.altered + self.twice + self.forged
        stored += self.turned_away + self.rejected + self.misjudged
        handled = self.undelivered + self.unfinished + self.missing + self.doubled
        return stored + handled + self.outcomes[HUNG] + self.server_errors


async def wait_until_quiet(stack: Stack, *, seconds: float, on_step: Callable[[str], None]) -> float:
    """Wait until the inbox is empty and no delivery is open; return how long it took.

    Raises:
        AssertionError: it did not come in time; says what is left.
    """
    started = time.monotonic()
    while True:
        inbox = await stack.redis.xlen(INBOX) + await stack.redis.xlen(OVERFLOW)
        (row,) = await stack.query(
            "SELECT count(*) AS n, min(state) AS state, min(last_error) AS error FROM deliveries"
        )
        if not inbox and not row["n"]:
            return time.monotonic() - started
        on_step(f"{inbox} in the inbox, {row['n']} deliveries open")
        assert time.monotonic() - started < seconds, f"not quiet after {seconds:.0f} s: inbox {inbox}, open {row}"
        await asyncio.sleep(0.25)


async def is_recovered(stack: Stack, ended: float, newer: Sequence[str]) -> bool:
    """Say whether what was acknowledged by then is handled, the flood's aside, and one of the newer ids too."""
    for stream in (INBOX, OVERFLOW):
        oldest = await stack.redis.xrange(stream, count=1)
        if oldest and int(bytes(oldest[0][0]).split(b"-")[0]) / 1000 < ended:  # type: ignore[arg-type] # bytes, as asked
            return False
    (row,) = await stack.query(
        "SELECT NOT EXISTS (SELECT FROM deliveries WHERE created_at < to_timestamp(%s) AND tenant <> %s) AS is_done,"
        " EXISTS (SELECT FROM chaos_effects WHERE event_id = ANY (%s::uuid[])) AS has_newer",
        [ended, FLOODING, list(newer)],
    )
    return bool(row["is_done"] and row["has_newer"])


async def reconcile(stack: Stack, sent: Sequence[Sent], windows: Sequence[tuple[float, float]]) -> list[Account]:
    """Account for the requests of each window of Unix seconds; the first account is that of all requests."""
    findings = await _look(stack, sent)
    accounts = []
    for begin, end in [(0.0, float("inf")), *windows]:
        account = Account()
        for number, request in enumerate(sent):
            if begin <= request.at <= end:
                account.requests += 1
                account.outcomes[request.outcome] += 1
                if request.code:
                    account.codes[request.code] += 1
                account.acknowledged += request.outcome == "200"
                for finding in findings.get(number, ()):
                    setattr(account, finding, getattr(account, finding) + 1)
        accounts.append(account)
    return accounts


async def _look(stack: Stack, sent: Sequence[Sent]) -> dict[int, list[str]]:
    """Return what is wrong (or worth counting) with each request, by its number."""
    findings: dict[int, list[str]] = {}
    await _write_down(stack, sent)
    for number, what in [
        *_look_at_answers(sent),
        *await _look_at_ids(stack),
        *await _look_at_bodies(stack, sent),
    ]:
        findings.setdefault(number, []).append(what)
    return findings


async def _write_down(stack: Stack, sent: Sequence[Sent]) -> None:
    """Put what was sent into a table."""
    await stack.query("DROP TABLE IF EXISTS chaos_sent")
    await stack.query("CREATE TABLE chaos_sent (number integer, id uuid, digest bytea, tenant text)")
    async with (
        await stack.connect() as connection,
        connection.cursor() as cursor,
        cursor.copy("COPY chaos_sent FROM STDIN") as copy,
    ):
        for number, request in enumerate(sent):
            await copy.write_row((number, request.event_id or None, request.digest, request.tenant))


def _look_at_answers(sent: Sequence[Sent]) -> list[tuple[int, str]]:
    """Look at what was said: an acknowledgement names its event, and only a forged one is not authorized."""
    found = []
    for number, request in enumerate(sent):
        if request.outcome == "200" and not request.event_id:
            found.append((number, "lost"))
        if request.outcome in {"400", "401", "403", "404", "413"} and request.kind != FORGED:
            found.append((number, "turned_away"))
    return found


async def _look_at_ids(stack: Stack) -> list[tuple[int, str]]:
    """Look every acknowledged id up, that of a duplicate through its arrival, and compare the body."""
    rows = await stack.query(
        "SELECT s.number, s.id::text AS id, s.digest = sha256(e.body) AND s.tenant = e.tenant AS same"
        " FROM chaos_sent AS s LEFT JOIN arrivals AS a ON a.id = s.id"
        " LEFT JOIN events AS e ON e.id = coalesce(a.first_id, s.id) WHERE s.id IS NOT NULL"
    )
    found = []
    for row in rows:
        if row["same"] is None:
            found.append((row["number"], "flushed" if row["id"] in stack.flushed else "lost"))
        elif not row["same"]:
            found.append((row["number"], "altered"))
    return found


async def _look_at_bodies(stack: Stack, sent: Sequence[Sent]) -> list[tuple[int, str]]:
    """Look at every stored event, acknowledged or not: once, with its deliveries and effects."""
    first = {request.digest: number for number, request in reversed(list(enumerate(sent)))}
    stored = await stack.query(
        "SELECT sha256(body) AS digest, count(*) AS events, count(*) FILTER (WHERE state = 'accepted') AS accepted,"
        " (array_agg(id))[1] AS id FROM events GROUP BY 1"
    )
    effects = await _counts(stack, "SELECT event_id, count(*) AS n FROM chaos_effects GROUP BY 1")
    runs = await _counts(stack, "SELECT event_id, count(*) AS n FROM chaos_runs GROUP BY 1")
    ended = await _counts(stack, "SELECT event_id, count(ended) AS n FROM chaos_runs GROUP BY 1")
    arrived = await _counts(stack, "SELECT id AS event_id, count(*) AS n FROM arrivals GROUP BY 1")
    deliveries = await _counts(stack, "SELECT event_id, count(*) AS n FROM all_deliveries GROUP BY 1")
    succeeded = await _counts(
        stack, "SELECT event_id, count(*) AS n FROM deliveries_done WHERE state = 'succeeded' GROUP BY 1"
    )
    overlaps = await _counts(
        stack,
        "SELECT event_id, count(*) AS n FROM (SELECT event_id, began, max(ended) OVER (PARTITION BY event_id"
        " ORDER BY began ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before FROM chaos_runs) AS r"
        " WHERE began < before GROUP BY 1",
    )
    found = []
    for row in stored:
        number, key = first.get(bytes(row["digest"])), row["id"]
        if number is None:
            continue  # not the load's: an event that a fault has sent itself
        kind = sent[number].kind
        is_accepted = kind == FRESH and row["accepted"] > 0
        checks = {
            "forged": kind == FORGED,
            "twice": row["events"] > 1 or arrived[key] > 0,
            "rejected": kind == FRESH and not row["accepted"],
            "misjudged": kind == MALFORMED and (row["accepted"] > 0 or deliveries[key] > 0),
            "undelivered": is_accepted and deliveries[key] != len(HANDLERS) + (sent[number].tenant == FLOODING),
            "unfinished": is_accepted and succeeded[key] != deliveries[key],
            "missing": is_accepted and not (effects[key] and ended[key]),
            "doubled": is_accepted and effects[key] > 1,
            "repeated": is_accepted and runs[key] > 1,
            "overlapped": is_accepted and overlaps[key] > 0,
        }
        found += [(number, what) for what, is_so in checks.items() if is_so]
    return found


async def _counts(stack: Stack, sql: str) -> Counter[object]:
    rows = await stack.query(sql)
    return Counter({row["event_id"]: int(row["n"]) for row in rows})
