"""Sends one message to one channel, within `SEND_SECONDS` whatever the receiver does.

The id of a message goes with every attempt, in `webhook-id` or in `Message-ID`: a receiver that answers too late, or
not at all, may get the message again, and can tell. A message that does not arrive raises `SendError`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import smtplib
import socket
import ssl
import threading
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from email.utils import format_datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from workers.housekeeping import alert_content
from workers.housekeeping.alert_channels import Channel, Email, Slack, Webhook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime
    from uuid import UUID

SEND_SECONDS: Final = 15.0
"""Upper bound of one attempt, beside looking the name up: a receiver that sends a byte now and then is cut off."""
STEP_SECONDS: Final = 5.0
"""Time that the receiver has to take the connection, and again for each piece of its answer."""
_PERMANENT: Final = range(400, 500)
_TRY_AGAIN: Final = {408, 409, 425, 429}


class SendError(Exception):
    """A message has not arrived.

    Attributes:
        is_refusal: the receiver has understood and does not want it: trying again will hardly help.
    """

    def __init__(self, text: str, *, is_refusal: bool = False) -> None:
        super().__init__(text)
        self.is_refusal = is_refusal


def send(
    channel: Channel, message_id: UUID, content: Mapping[str, Any], *, now: datetime, seconds: float = SEND_SECONDS
) -> None:
    """Send a message.

    Args:
        channel: where to.
        message_id: the same for each attempt.
        content: of `alert_content`.
        now: aware; part of the signature.
        seconds: upper bound.

    Raises:
        SendError: it has not arrived, or nobody knows.
    """
    try:
        match channel:
            case Webhook():
                body = json.dumps(content).encode()
                _post(channel.url, body, sign(channel.key, message_id, body, now=now), seconds=seconds)
            case Slack():
                _post(channel.url, json.dumps({"text": alert_content.text(content)}).encode(), {}, seconds=seconds)
            case Email():
                _mail(channel, _message(channel, message_id, content, now=now), seconds=seconds)
    except smtplib.SMTPRecipientsRefused as error:
        codes = {code for code, _ in error.recipients.values()}
        raise SendError("all recipients are refused", is_refusal=all(500 <= it < 600 for it in codes)) from None  # noqa: PLR2004
    except smtplib.SMTPResponseException as error:
        is_refusal = 500 <= error.smtp_code < 600  # noqa: PLR2004 - SMTP: permanent
        raise SendError(f"the mail server answers {error.smtp_code}", is_refusal=is_refusal) from None
    except (OSError, HTTPException, smtplib.SMTPException) as error:
        raise SendError(_line(error)) from None
    except SendError:
        raise
    except Exception as error:
        raise SendError(f"it cannot be sent: {_line(error)}", is_refusal=True) from error


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0][:300]


def sign(key: bytes, message_id: UUID, body: bytes, *, now: datetime) -> dict[str, str]:
    """Return the headers of Standard Webhooks for a body."""
    moment = int(now.timestamp())
    signed = f"{message_id}.{moment}.".encode() + body
    signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return {
        "webhook-id": str(message_id),
        "webhook-timestamp": str(moment),
        "webhook-signature": f"v1,{signature}",
    }


@contextmanager
def _aborted_after(seconds: float, get_socket: Callable[[], socket.socket | None]) -> Iterator[None]:
    """Cut the connection when the time is over, so that whoever waits for it gets an error."""
    is_over = threading.Event()

    def cut() -> None:
        is_over.set()
        with suppress(OSError):
            if it := get_socket():
                it.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, HTTPException, smtplib.SMTPException, ValueError):
        if is_over.is_set():
            raise SendError(f"no answer within {seconds:g} s") from None
        raise
    finally:
        timer.cancel()


def _post(url: str, body: bytes, headers: Mapping[str, str], *, seconds: float) -> None:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    connection: HTTPConnection
    if parts.scheme == "https":
        connection = HTTPSConnection(host, port, timeout=STEP_SECONDS, context=ssl.create_default_context())
    else:
        connection = HTTPConnection(host, port, timeout=STEP_SECONDS)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    sent = {"Content-Type": "application/json", "User-Agent": "webhook-pipeline", "Connection": "close", **headers}
    try:
        with _aborted_after(seconds, lambda: connection.sock):
            connection.request("POST", target, body, sent)
            status = connection.getresponse().status  # what it says besides does not matter
    finally:
        connection.close()
    if not 200 <= status < 300:  # noqa: PLR2004 - success
        is_refusal = status in _PERMANENT and status not in _TRY_AGAIN
        raise SendError(f"the receiver answers {status}", is_refusal=is_refusal)


def _message(channel: Email, message_id: UUID, content: Mapping[str, Any], *, now: datetime) -> EmailMessage:
    message = EmailMessage()
    message["Subject"] = " ".join(alert_content.headline(content).split())[:200]
    message["From"] = channel.sender
    message["To"] = ", ".join(channel.recipients)
    message["Date"] = format_datetime(now)
    message["Message-ID"] = f"<{message_id}@{channel.sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(alert_content.text(content))
    return message


def _mail(channel: Email, message: EmailMessage, *, seconds: float) -> None:
    context = ssl.create_default_context()
    # It connects when it is made: with a name before that, the connection can be cut while it is greeted, too.
    is_tls = channel.security == "tls"
    smtp = smtplib.SMTP_SSL.__new__(smtplib.SMTP_SSL) if is_tls else smtplib.SMTP.__new__(smtplib.SMTP)
    how: dict[str, Any] = {"timeout": STEP_SECONDS} | ({"context": context} if is_tls else {})
    try:
        with _aborted_after(seconds, lambda: getattr(smtp, "sock", None)):
            smtp.__init__(channel.host, channel.port, **how)  # type: ignore[misc]
            if channel.security == "starttls":
                smtp.starttls(context=context)
            if channel.user:
                smtp.login(channel.user, channel.password)
            refused = smtp.send_message(message, channel.sender, list(channel.recipients))
            with suppress(smtplib.SMTPException, OSError):
                smtp.quit()  # it has been taken
    finally:
        if hasattr(smtp, "sock"):
            smtp.close()
    if refused:
        raise SendError(f"recipients are refused: {', '.join(sorted(refused))}", is_refusal=True)
