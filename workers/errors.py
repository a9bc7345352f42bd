"""The errors of dispatch: what a handler may raise on purpose, and what is recorded for it.

Guarantees: each has a one-line text that a person reads in `last_error`.
"""

from __future__ import annotations

from typing import Final

LONGEST_WAIT: Final = 366 * 86_400
"""Seconds that `RetryAfter` takes at most: more is a moment that was taken for a duration."""


class Permanent(Exception):  # noqa: N818 - reads as what the handler says: this failure is permanent
    """Raise it in a handler when trying again is pointless: the delivery is dead at once."""


class RetryAfter(Exception):  # noqa: N818 - reads as what the handler asks for
    """Raise it in a handler to be tried again after so many seconds, whatever the schedule says.

    It counts as an attempt.
    """

    def __init__(self, seconds: float, reason: str = "") -> None:
        if not 0 <= seconds <= LONGEST_WAIT:
            raise ValueError(f"RetryAfter takes a number of seconds, at most {LONGEST_WAIT}, not {seconds!r}")
        super().__init__(reason or f"asked to be tried again after {seconds:g} s")
        self.seconds = seconds


class SettingsError(KeyError):
    """A tenant has not the settings that a handler asks for; the text names them, the tenant and the command."""

    def __str__(self) -> str:
        return str(self.args[0])


class TimedOut(BaseException):
    """The handler did not return within its timeout."""


class TransactionMisused(Exception):  # noqa: N818 - names what happened
    """The handler ended, closed or spoiled the transaction of `delivery.connection`."""


class Fenced(Exception):  # noqa: N818 - names what happened
    """The delivery was taken over after its lease; this late outcome changes nothing."""


class EventGone(Exception):  # noqa: N818 - names what happened
    """The event of a delivery is no longer stored."""


class DeliveryFailed(Exception):  # noqa: N818 - what Flower shows
    """Names the tenant and the event of a failed attempt; its cause is the handler's own error."""


class RegistrationError(Exception):
    """A handler cannot be registered; the text is one line that names the culprit."""
