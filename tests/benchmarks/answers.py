"""Answers on plain sockets: servers may send one in several pieces."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket


class Answers:
    """Puts the pieces together; each answer must have a Content-Length."""

    def __init__(self) -> None:
        self._begun: dict[socket.socket, bytes] = {}

    def read(self, one: socket.socket) -> bytes | None:
        """Read what has come; return the status when the answer is complete."""
        piece = one.recv(65_536)
        if not piece:
            sys.exit("the server closed a connection")
        answer = self._begun.pop(one, b"") + piece
        head = answer.find(b"\r\n\r\n")
        if head >= 0:
            at = answer.lower().find(b"content-length:") + 15
            if len(answer) >= head + 4 + int(answer[at : answer.find(b"\r", at)]):
                return answer[9:12]
        self._begun[one] = answer
        return None
