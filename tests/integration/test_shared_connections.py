"""Connections that the import of a handlers' module leaves open are named at the start of a worker."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.conftest import SECRETS_KEY
from workers import team_modules
from workers.open_sockets import connected_sockets

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_connected_sockets_are_those_with_a_peer() -> None:
    before = connected_sockets()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        served, _ = server.accept()
        pair = socket.socketpair()
        with served, pair[0], pair[1], socket.socket():
            found = {inode: peer for inode, peer in connected_sockets().items() if inode not in before}
            names = [f"{host}:{port}" for host, port in (client.getpeername(), served.getpeername())]
            assert sorted(found.values()) == sorted(names)


def test_a_worker_says_which_module_opened_a_connection_before_the_fork(
    tmp_path: Path, redis_url: str, database_url: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        (tmp_path / "sharing_handlers.py").write_text(f"import socket\nclient = socket.create_connection({address})\n")
        environ = os.environ | {
            "HANDLERS": "workers.handlers.example,sharing_handlers",
            "PYTHONPATH": str(tmp_path),
            "REDIS_URL": redis_url,
            "DATABASE_URL": database_url,
            "SECRETS_KEY": SECRETS_KEY,
        }
        command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-Q", "handlers", "-c", "1"]
        worker = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert worker.stdout is not None
        lines = []
        for line in worker.stdout:
            lines.append(line)
            if "ready" in line:
                break
        worker.terminate()
        worker.communicate(timeout=30)
    told = [json.loads(line) for line in lines if "sharing_handlers" in line]
    assert [it["code"] for it in told] == ["shared_connection"], lines
    assert f"importing 'sharing_handlers' opened a connection to 127.0.0.1:{address[1]}" in told[0]["message"]
    assert "@on_process_start" in told[0]["message"]


def test_a_module_that_opens_nothing_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "quiet_handlers.py").write_text("import asyncio\nloop = asyncio.new_event_loop()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(team_modules, "shared_connections", [])
    module = team_modules.import_module("HANDLERS", "quiet_handlers")
    module.loop.close()
    assert team_modules.shared_connections == []
