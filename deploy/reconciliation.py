"""What a provider says that it has sent, against what came: for the command line and the console."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from workers.store.connect import Connection
from workers.store.reconciling import Came, list_came

WORST_FIRST: Final = ("missing", "rejected", "failed", "waiting", "unwanted", "handled")
"""An id has the worst outcome of its events."""
MOST_CHARACTERS: Final = 1000
MOST_UNLISTED: Final = 10_000
"""Subjects that are not in the list and are shown; all are counted."""


class ListError(ValueError):
    """What was given is no list of ids; the text says why."""


@dataclass(slots=True)
class Found:
    """What came of one id: `events` of it, of which some came again `arrivals` times."""

    outcome: str = "missing"
    events: int = 0
    arrivals: int = 0
    handlers: set[str] = field(default_factory=set)
    reasons: set[str] = field(default_factory=set)

    def add(self, came: Came) -> None:
        """Count one event of it."""
        self.events += 1
        self.arrivals += came.arrivals
        self.handlers.update(came.waiting, came.failed)
        if came.reject_reason:
            self.reasons.add(came.reject_reason)
        is_first = self.events == 1
        self.outcome = came.outcome if is_first else min(self.outcome, came.outcome, key=WORST_FIRST.index)


@dataclass(slots=True, kw_only=True)
class Compared:
    """What came of the ids of a list.

    Attributes:
        listed: by id.
        unlisted: how many events there are of each id that came and is not in the list.
        nameless: events that have no id to compare by.
        looked_at: events that were compared.
        is_whole: whether that were all.
    """

    listed: dict[str, Found]
    unlisted: Counter[str] = field(default_factory=Counter)
    nameless: int = 0
    looked_at: int = 0
    is_whole: bool = True

    @property
    def counts(self) -> Counter[str]:
        """How many ids have each outcome."""
        return Counter(it.outcome for it in self.listed.values())

    def rows(self, *, everything: bool = False) -> list[dict[str, Any]]:
        """Return a row for each id that was not simply handled, or for all, then those that are not in the list."""
        rows = [
            _row(subject, it)
            for subject, it in self.listed.items()
            if everything or it.outcome != "handled" or it.arrivals
        ]
        more = self.unlisted.most_common(MOST_UNLISTED)
        return rows + [{"id": it, "outcome": "not_listed", "events": number} for it, number in more]

    def sum_up(self, *, repeated: int) -> Iterator[str]:
        """Yield it in sentences; `repeated` lines of the list have an id again."""
        counts, again = self.counts, sum(1 for it in self.listed.values() if it.arrivals)
        parts = ", ".join(f"{counts[it]} {it}" for it in reversed(WORST_FIRST) if counts[it])
        yield f"{len(self.listed)} ids: {parts}{f'; {again} of them came more than once' if again else ''}"
        if repeated:
            yield f"{repeated} lines repeat an id of the list"
        if self.unlisted:
            yield f"{len(self.unlisted)} ids came that are not in the list"
        if self.nameless:
            yield f"{self.nameless} events have no id to compare by (`pipeline events list --state rejected`)"


def compare(
    connection: Connection,
    listed: dict[str, Found],
    *,
    tenant: str,
    provider: str | None = None,
    type: str | None = None,  # noqa: A002 - the word of the providers
    since: datetime | None = None,
    until: datetime | None = None,
    most: int | None = None,
) -> Compared:
    """Note in `listed` what came of each id, and count what else came.

    Args:
        connection: outside a transaction.
        listed: from `collect`.
        tenant: whose events.
        provider: of this one only.
        type: of this type only.
        since: received then or later, aware.
        until: received before then, aware.
        most: events to look at.
    """
    compared = Compared(listed=listed)
    for came in list_came(connection, tenant=tenant, since=since, until=until):
        if most is not None and compared.looked_at >= most:
            compared.is_whole = False
            break
        compared.looked_at += 1
        if (provider and came.provider != provider) or (type and came.type != type):
            continue
        if came.subject is None:
            compared.nameless += 1
        elif (found := listed.get(came.subject)) is not None:
            found.add(came)
        else:
            compared.unlisted[came.subject] += 1
    return compared


def collect(values: Iterable[tuple[int, str]]) -> tuple[dict[str, Found], int]:
    """Return the ids of lines (number, text), and how many lines repeat one. Raises ListError."""
    listed: dict[str, Found] = {}
    repeated = 0
    for line, value in values:
        if len(value) > MOST_CHARACTERS:
            raise ListError(f"line {line} has {len(value)} characters, too many for an id: is it a list of ids?")
        if "\x00" in value:
            raise ListError(f"line {line} has a NUL character: is it a text file?")
        repeated += value in listed
        listed.setdefault(value, Found())
    if not listed:
        raise ListError("the list has no id")
    return listed, repeated


def _row(subject: str, it: Found) -> dict[str, Any]:
    return {
        "id": subject,
        "outcome": it.outcome,
        "events": it.events,
        "arrivals": it.arrivals,
        "handlers": sorted(it.handlers),
        "reasons": sorted(it.reasons),
    }
