"""What a worker's main process does again and again beside its messages."""

from __future__ import annotations

from typing import Any

from celery import bootsteps


class ConsumerTimer(bootsteps.StartStopStep):
    """A bootstep of Celery's consumer that ticks while the worker is connected to its broker; a subclass sets the rest.

    Celery starts it at every connection, in the event loop of the main process, and stops it when the connection is
    lost: what takes long in a tick holds up messages.

    Attributes:
        every_seconds: between two ticks.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)
    every_seconds: float

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._timers: list[Any] = []

    def start(self, consumer: Any) -> None:
        """Begin to tick."""
        self._timers = [consumer.timer.call_repeatedly(self.every_seconds, self.tick, (consumer,))]

    def stop(self, consumer: Any) -> None:
        """Tick no more."""
        del consumer
        for timer in self._timers:
            timer.cancel()
        self._timers = []

    def tick(self, consumer: Any) -> None:
        """Do it once."""
        raise NotImplementedError
