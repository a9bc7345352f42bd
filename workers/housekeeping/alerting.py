"""Tells channels of incidents: makes the messages that they have not had, and sends them beside the sweeps.

Each channel that has something to send has a thread of its own, so that no channel waits for another, and the task for
none of them. A thread that ends with its process loses nothing: its message is sent again after `LEASE_SECONDS`, under
the same id.
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from workers.housekeeping import alert_content
from workers.housekeeping.alert_channels import ChannelError, read_channels
from workers.housekeeping.alert_sending import SEND_SECONDS, SendError, send
from workers.store import alerts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from workers.housekeeping.alert_channels import Channel
    from workers.store.alerts import Message
    from workers.store.connect import Connection, PostgresConnection

log = logging.getLogger(__name__)

LEASE_SECONDS: Final = 4 * SEND_SECONDS
RETRY_SECONDS: Final = (5.0, 15.0, 60.0, 180.0, 300.0)
"""Pauses between attempts; the last one again and again."""
REFUSALS: Final = 5
"""Attempts after which a message that the receiver refuses is given up, so that the next ones get their turn."""
GIVE_UP_AFTER: Final = timedelta(days=3)
"""Age of a message that cannot be sent, at which it is given up."""
TURN_SECONDS: Final = 60.0
"""A thread ends after that time, and the next tick starts another."""


class Alerter:
    """Sends the alerts of this process.

    Args:
        path: of the file of channels; None if there is none, and nobody is told.
        connect: makes a connection to Postgres for a thread.
    """

    def __init__(self, path: Path | None, connect: Callable[[], PostgresConnection]) -> None:
        self._path = path
        self._connect = connect
        self._threads: dict[str, threading.Thread] = {}
        self._is_broken = False

    def notify(self, connection: Connection) -> None:
        """Make the messages that channels have not had yet, and see that each that is due is being sent.

        Args:
            connection: outside a transaction.
        """
        channels = self._read_channels()
        if not channels:
            return
        for channel in channels:
            compose = partial(alert_content.compose, for_tenants=channel.tenants is not None, now=datetime.now(UTC))
            alerts.make_messages(connection, channel.name, channel.tenants, compose)
        due = alerts.list_due(connection, [it.name for it in channels])
        for channel in channels:
            running = self._threads.get(channel.name)
            if channel.name in due and not (running and running.is_alive()):
                thread = threading.Thread(
                    target=self._send_all, args=[channel], name=f"alerts {channel.name}", daemon=True
                )
                self._threads[channel.name] = thread
                thread.start()

    def _read_channels(self) -> list[Channel]:
        """Return the channels; while the file is wrong, none: what is to be told waits."""
        if self._path is None:
            return []
        try:
            channels = read_channels(self._path)
        except ChannelError as error:
            if not self._is_broken:
                log.error("nobody is told of incidents: %s", error, extra={"code": "alerts_unreadable"})  # noqa: TRY400
            self._is_broken = True
            return []
        self._is_broken = False
        return channels

    def _send_all(self, channel: Channel) -> None:
        ends = time.monotonic() + TURN_SECONDS
        postgres = self._connect()
        try:
            while time.monotonic() < ends:
                message = alerts.claim(postgres.connection, channel.name, lease=LEASE_SECONDS)
                if message is None or not send_one(postgres.connection, channel, message):
                    return
        except Exception as error:  # noqa: BLE001 - the thread ends, and the next tick starts another
            extra = {"code": "alerts_interrupted"}
            log.warning("alerts of the channel %s are interrupted: %s", channel.name, error, extra=extra)
        finally:
            postgres.close()


def send_one(connection: Connection, channel: Channel, message: Message) -> bool:
    """Send a message and note what came of it; return whether the next one may be sent."""
    now = datetime.now(UTC)
    try:
        send(channel, message.id, message.content, now=now)
    except SendError as error:
        gives_up = now - message.made_at > GIVE_UP_AFTER or (error.is_refusal and message.attempts >= REFUSALS)
        wait = RETRY_SECONDS[min(message.attempts, len(RETRY_SECONDS)) - 1]
        alerts.mark_failed(connection, message, error=str(error), wait=wait, gives_up=gives_up)
        log.warning(
            "an alert of the channel %s has not arrived: %s; %s",
            channel.name,
            error,
            "it is given up" if gives_up else f"tried again in {wait:.0f} s",
            extra={"code": "alert_failed"},
        )
        return gives_up
    alerts.mark_sent(connection, message)
    return True
