"""The heartbeat of Celery's processes: a worker's main process and beat; see `shared.heartbeat`.

A worker beats from its event loop while it is connected, and at every attempt to connect while it is not (in
`workers.broker`): with Redis away its loop does not run, and a restart would not help. Beat does the same from its
scheduler. No thread beats, for a thread would go on when the loop stands still.
"""

from __future__ import annotations

import atexit
import threading
from typing import TYPE_CHECKING, Any

from celery import signals
from celery.beat import Scheduler

from shared import wire
from shared.heartbeat import EVERY_SECONDS, Heartbeat
from workers.consumer_timer import ConsumerTimer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_current: Heartbeat | None = None
_on_tick: Callable[[], object] = bool


def beat() -> None:
    """Say that this process goes on, if it has a heartbeat; only its main thread's word counts."""
    if _current is not None and threading.current_thread() is threading.main_thread():
        _current.beat()


def set_stuck(*, is_stuck: bool) -> None:
    """Say whether this worker takes nothing although it could."""
    if _current is not None:
        _current.set_stuck(is_stuck=is_stuck)


def set_waiting(reason: str) -> None:
    """Say what a person must mend before this worker can work; empty for nothing."""
    if _current is not None:
        _current.set_waiting(reason)


def connect_signals(folder: Path | None, *, on_tick: Callable[[], object]) -> None:
    """Let the worker or beat of this process keep a heartbeat.

    Args:
        folder: of its file; None for the default one.
        on_tick: called in beat after each tick.
    """
    global _on_tick  # noqa: PLW0603 - one per process
    _on_tick = on_tick

    def start(*, name: str, duties: list[str]) -> None:
        global _current  # noqa: PLW0603 - one per process
        _current = Heartbeat(folder=folder, name=name, duties=duties)
        atexit.register(_current.remove)

    def start_worker(sender: str, instance: Any, **_: Any) -> None:
        queues = set(instance.app.amqp.queues.consume_from)
        if wire.HANDLERS_QUEUE in queues:
            queues.discard(wire.EXPRESS_QUEUE)  # it helps out there; the express worker is the one that has no other
        start(name=sender, duties=sorted(queues))

    def start_beat(**_: Any) -> None:
        start(name="beat", duties=["beat"])

    def stop(**_: Any) -> None:
        if _current is not None:
            _current.stop()

    signals.celeryd_after_setup.connect(start_worker, weak=False)
    signals.worker_shutting_down.connect(stop, weak=False)
    signals.beat_init.connect(start_beat, weak=False)


class HeartbeatTimer(ConsumerTimer):
    """Beats from the event loop of a worker."""

    every_seconds = EVERY_SECONDS

    def tick(self, consumer: Any) -> None:
        """Beat."""
        del consumer
        beat()


class BeatingScheduler(Scheduler):
    """Celery's scheduler, in memory, with a heartbeat. Everything is due once when it starts."""

    def setup_schedule(self) -> None:
        """Read the schedule; Celery itself would wait for a whole interval first, ten minutes for the days."""
        super().setup_schedule()
        for entry in self.schedule.values():
            entry.last_run_at -= entry.schedule.run_every

    def tick(self, *args: Any, **kwargs: Any) -> Any:
        """Send what is due; return the seconds until the next tick, at most `beat_max_loop_interval`."""
        beat()
        seconds = super().tick(*args, **kwargs)
        _on_tick()
        return seconds
