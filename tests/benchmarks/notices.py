"""Where handlers tell at once what they have handled."""

from __future__ import annotations

import socket
from typing import Self

from tests.benchmarks.measuring import PATIENCE_SECONDS


class Notices:
    """A socket that gets a datagram for each event that a handler has handled."""

    def __enter__(self) -> Self:
        """Open the socket."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(PATIENCE_SECONDS)
        self.port: int = self._socket.getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._socket.close()

    def wait_for_tenant(self, tenant: str) -> None:
        """Wait until a notice is of this tenant."""
        while self._socket.recv(500).decode().partition(" ")[0] != tenant:
            pass

    def wait_for(self, wanted: str) -> None:
        """Wait until a notice ends with this word."""
        while self._socket.recv(500).decode().rpartition(" ")[2] != wanted:
            pass
