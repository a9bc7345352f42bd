"""Connections that this process has open, to tell which ones the import of a module has left.

A worker process is forked from one that has imported the handlers. A connection that was open before is then shared:
the processes read each other's replies.
"""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Final

FOLDER: Final = Path("/dev/fd")


def connected_sockets() -> dict[int, str]:
    """Return the peers of the connected stream sockets of this process, by inode; none where that cannot be seen."""
    try:
        descriptors = [int(entry.name) for entry in FOLDER.iterdir()]
    except OSError:
        return {}
    found = {}
    for descriptor in descriptors:
        try:
            status = os.fstat(descriptor)
            if stat.S_ISSOCK(status.st_mode) and (peer := _peer(descriptor)):
                found[status.st_ino] = peer
        except OSError:  # closed meanwhile (the folder's own is), or not connected
            continue
    return found


def _peer(descriptor: int) -> str:
    """Return whom a stream socket is connected to; nothing for one without a name, such as half of a socket pair."""
    with socket.socket(fileno=os.dup(descriptor)) as duplicate:
        if duplicate.type != socket.SOCK_STREAM:
            return ""
        address = duplicate.getpeername()
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else os.fsdecode(address)
