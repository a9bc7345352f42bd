"""Connections to Postgres: what a process that was killed leaves behind there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from workers.store.connect import connect

if TYPE_CHECKING:
    from workers.store.connect import Connection

WAIT_IN_A_TRANSACTION = """
import sys
from workers.store.connect import connect
with connect(sys.argv[1], name="victim") as connection, connection.transaction():
    connection.execute("UPDATE admission SET tenant = 'held'")
    connection.execute("SELECT pg_advisory_xact_lock(1)")
"""


@pytest.mark.timeout(30)
def test_a_process_killed_while_it_waits_for_a_lock_lets_go_of_its_own_locks(
    connection: Connection, database_url: str
) -> None:
    waiting = "SELECT FROM pg_stat_activity WHERE application_name = 'victim' AND wait_event_type = 'Lock'"
    with connect(database_url, name="holder") as holder, holder.transaction():
        holder.execute("SELECT pg_advisory_xact_lock(1)")
        victim = subprocess.Popen([sys.executable, "-c", WAIT_IN_A_TRANSACTION, database_url])
        while not connection.execute(waiting).fetchall():
            time.sleep(0.02)
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
        connection.execute("SET lock_timeout = '8s'")
        connection.execute("UPDATE admission SET tenant = 'free'")
