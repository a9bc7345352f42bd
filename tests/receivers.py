"""Real receivers of alerts on the loopback: HTTP and SMTP, well behaved or not."""

from __future__ import annotations

import socketserver
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import EmailMessage


@dataclass(slots=True, kw_only=True)
class HttpReceiver:
    """Keeps what is posted to it.

    Attributes:
        url: where to post.
        posts: headers and body of each request, in order.
        answers: statuses of the next answers, then 204 to each.
        pause: seconds before an answer.
        drip: send the answer a byte a tenth of a second, for ever.
    """

    url: str = ""
    posts: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    pause: float = 0.0
    drip: bool = False
    is_over: threading.Event = field(default_factory=threading.Event)


@contextmanager
def http_receiver(**behaviour: Any) -> Iterator[HttpReceiver]:
    """Run an HTTP server for the block."""
    receiver = HttpReceiver(**behaviour)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.posts.append(({name.lower(): value for name, value in self.headers.items()}, body))
            status = receiver.answers.pop(0) if receiver.answers else 204
            if receiver.is_over.wait(receiver.pause):
                return
            with suppress(OSError):
                while receiver.drip and not receiver.is_over.wait(0.1):
                    self.wfile.write(b"H")
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_port}/alerts?key=1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield receiver
        finally:
            receiver.is_over.set()
            server.shutdown()
            thread.join()


@dataclass(slots=True, kw_only=True)
class SmtpReceiver:
    """Keeps the mail that it is sent.

    Attributes:
        mails: sender, recipients and message, in order.
        refusals: answers to the next RCPT commands, such as "550 no such user"; then all are accepted.
        is_silent: takes connections and says nothing.
    """

    port: int = 0
    mails: list[tuple[str, list[str], EmailMessage]] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    is_silent: bool = False
    is_over: threading.Event = field(default_factory=threading.Event)


@contextmanager
def smtp_receiver(**behaviour: Any) -> Iterator[SmtpReceiver]:  # noqa: C901 - a branch for each command
    """Run an SMTP server for the block: what RFC 5321 asks of the least one."""
    receiver = SmtpReceiver(**behaviour)

    class Handler(socketserver.StreamRequestHandler):
        def say(self, line: str) -> None:
            self.wfile.write(f"{line}\r\n".encode())

        def handle(self) -> None:
            if receiver.is_silent:
                receiver.is_over.wait()
                return
            self.say("220 test")
            sender, recipients = "", list[str]()
            while line := self.rfile.readline().decode().strip():
                command, _, rest = line.partition(" ")
                match command.upper():
                    case "EHLO" | "HELO":
                        self.say("250 test")
                    case "MAIL":
                        sender, recipients = rest.partition("<")[2].partition(">")[0], []
                        self.say("250 ok")
                    case "RCPT":
                        refusal = receiver.refusals.pop(0) if receiver.refusals else ""
                        if not refusal:
                            recipients.append(rest.partition("<")[2].partition(">")[0])
                        self.say(refusal or "250 ok")
                    case "DATA":
                        self.say("354 go on")
                        lines = iter(self.rfile.readline, b".\r\n")
                        data = b"".join(it[1:] if it.startswith(b".") else it for it in lines)
                        message: Any = message_from_bytes(data, policy=default)
                        receiver.mails.append((sender, recipients, message))
                        self.say("250 taken")
                    case "QUIT":
                        self.say("221 bye")
                        return
                    case _:
                        self.say("250 ok")

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True

    with Server(("127.0.0.1", 0), Handler) as server:
        receiver.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield receiver
        finally:
            receiver.is_over.set()
            server.shutdown()
            thread.join()


def wait_for_posts(receiver: HttpReceiver, count: int, *, seconds: float = 30.0) -> list[tuple[dict[str, str], bytes]]:
    """Wait until so many requests have come, and return all."""
    deadline = time.monotonic() + seconds
    while len(receiver.posts) < count:
        assert time.monotonic() < deadline, f"{len(receiver.posts)} of {count} came"
        time.sleep(0.02)
    return receiver.posts
