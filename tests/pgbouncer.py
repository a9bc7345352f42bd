"""pgbouncer in front of the tests' Postgres; tests that need it are skipped where it is not installed."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.launching import end, free_port, spawn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
needs_pgbouncer = pytest.mark.skipif(
    PROGRAM is None, reason="pgbouncer is not installed: apt-get install pgbouncer (as .ci/run does)"
)


@contextmanager
def pooling(url: str, home: Path, *, mode: str, settings: str = "") -> Iterator[str]:
    """Run pgbouncer before a Postgres and yield the URL that goes through it.

    Args:
        url: of the Postgres.
        home: folder for its configuration.
        mode: session, transaction or statement.
        settings: further lines of its configuration.
    """
    assert PROGRAM is not None
    parts, port = urlsplit(url), free_port()
    configuration = home / f"pgbouncer-{port}.ini"
    configuration.write_text(
        f"[databases]\n* = host={parts.hostname} port={parts.port} user={parts.username} password={parts.password}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"pool_mode = {mode}\n{settings}\n"
    )
    configuration.chmod(0o644)
    uid = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None  # it refuses to be root
    log = home / f"pgbouncer-{port}.log"
    process = spawn([PROGRAM, str(configuration)], log=log, user=uid, at_our_end=signal.SIGINT)
    try:
        while not _listens(port):
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        yield f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}"
    finally:
        end(process, signal.SIGTERM)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
