"""Every figure of the exporter, with its type, its labels and what it means; deploy/METRICS.md is the same table."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One row of the table."""

    name: str
    type: Literal["gauge", "counter", "histogram"]
    labels: tuple[str, ...]
    about: str

    def family(self) -> GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily:
        """Return its family, with no sample yet."""
        match self.type:
            case "gauge":
                return GaugeMetricFamily(self.name, self.about, labels=self.labels)
            case "counter":
                return CounterMetricFamily(self.name, self.about, labels=self.labels)
            case "histogram":
                return HistogramMetricFamily(self.name, self.about, labels=self.labels)


def _gauge(name: str, about: str, *labels: str) -> Figure:
    return Figure(name=f"pipeline_{name}", type="gauge", labels=labels, about=about)


def _counter(name: str, about: str, *labels: str) -> Figure:
    return Figure(name=f"pipeline_{name}_total", type="counter", labels=labels, about=about)


def _histogram(name: str, about: str, *labels: str) -> Figure:
    return Figure(name=f"pipeline_{name}", type="histogram", labels=labels, about=about)


FIGURES: Final = {
    figure.name: figure
    for figure in (
        _gauge("redis_answers", "1 if Redis answered when last asked"),
        _gauge("postgres_answers", "1 if Postgres answered when last asked"),
        _gauge("refresh_seconds", "Duration of the last look", "source"),
        _gauge("late_reads", "Reads that took more than two seconds at the last look and were left out", "source"),
        _gauge("inbox_entries", "Events that wait to be stored", "stream"),
        _gauge("inbox_oldest_seconds", "Age of the oldest of them; 0: there is none", "stream"),
        _gauge("queue_messages", "Celery messages that wait", "queue"),
        _gauge("held_messages", "Celery messages that workers have taken, those of lost workers included"),
        _gauge("redis_used_bytes", "Memory that Redis uses"),
        _gauge("redis_max_bytes", "Memory that Redis may use; 0: any"),
        _gauge("redis_durable", "1 if Redis keeps what it confirms, as INBOX_DURABILITY asks; 0: it does not"),
        _gauge("registry_version", "Version of the registry; of Redis 0: none is published", "place"),
        _gauge("task_age_seconds", "Time since the last drain, sweep, tick or keep_days ended", "task"),
        _gauge("workers", "Workers that live", "duty"),
        _gauge("worker_slots", "Their processes that run tasks", "duty"),
        _gauge("worker_busy_slots", "Of these, those that run one", "duty"),
        _gauge("worker_fetch_age_seconds", "Time since the last fetch of a worker with a free slot; 0: none", "duty"),
        _gauge("workers_lost", "Workers that fell silent within an hour, were not stopped and are not back", "duty"),
        _gauge("deliveries", "Open deliveries, of each state up to 10,000", "state"),
        _gauge(
            "deliveries_oldest_seconds",
            "How long the oldest has been in its state beyond its time, without what is paused",
            "state",
        ),
        _gauge("lease_overdue_seconds", "Time since the first lease ended that nobody has noticed; 0: none"),
        _gauge("tenant_due_deliveries", "Due deliveries, of each tenant up to 1,000", "tenant"),
        _gauge("tenant_oldest_seconds", "How long the oldest of them has been due that is not paused", "tenant"),
        _gauge("tenants_waiting", "Tenants with due deliveries"),
        _gauge("dead_deliveries", "Dead deliveries that are kept, up to 10,000"),
        _gauge("rejected_events", "Rejected events that are kept, up to 10,000"),
        _gauge("open_incidents", "Incidents that are open and not muted"),
        _gauge("paused", "Tenants, handlers, and handlers for one tenant that are paused", "kind"),
        _gauge("paused_seconds", "How long ago the oldest of these pauses began; 0: there is none"),
        _counter("events", "What drains have made of events", "outcome"),
        _counter(
            "attempts", "Outcomes of deliveries; retried: the attempt failed, another follows", "handler", "outcome"
        ),
        _counter("leases_expired", "Claims whose worker was lost", "handler"),
        _histogram("stored_seconds", "From received to stored"),
        _histogram("attempt_seconds", "Duration of attempts", "handler"),
        _histogram("handled_seconds", "From stored to finished", "handler"),
        _gauge(
            "refused_requests",
            "Refusals of a registered endpoint since they began; forgotten an hour after the last one",
            *("tenant", "provider", "code"),
        ),
        _gauge(
            "refused_seconds",
            "How long they have gone on with no event of the endpoint stored meanwhile",
            *("tenant", "provider", "code"),
        ),
        _gauge(
            "endpoint_overdue_seconds",
            "Time since an endpoint should have sent something, by what is usual; only of those that are late",
            *("tenant", "provider"),
        ),
        _gauge("partitions_ahead", "Days after today whose partitions exist"),
        _gauge("oldest_snapshot_seconds", "Age of the oldest snapshot that a session holds; 0: none above a minute"),
    )
}


class Families:
    """Samples, by the figure that they belong to."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._families.values())

    def add(self, name: str, value: float, *labels: str) -> None:
        """Add a sample of a gauge or counter; `labels` are the values in the order of `FIGURES`."""
        self._family(name).add_metric(labels, value)  # type: ignore[attr-defined]

    def add_histogram(
        self, name: str, counts: Sequence[int], seconds: float, *labels: str, bounds: Sequence[float]
    ) -> None:
        """Add a histogram: how many lie below each bound and not below the one before, at last those above all."""
        names = [*map(str, bounds), "+Inf"]
        buckets = list(zip(names, map(float, accumulate(counts)), strict=True))
        self._family(name).add_metric(labels, buckets, seconds)  # type: ignore[attr-defined]

    def _family(self, name: str) -> Metric:
        if name not in self._families:
            self._families[name] = FIGURES[name].family()
        return self._families[name]


def merge(parts: Iterable[Families]) -> list[Metric]:
    """Return all families in the order of `FIGURES`, each once."""
    merged: dict[str, Metric] = {}
    for name, figure in FIGURES.items():
        samples = [
            sample for part in parts for it in part if it.name == name.removesuffix("_total") for sample in it.samples
        ]
        if samples:
            merged[name] = figure.family()
            merged[name].samples = samples
    return list(merged.values())
