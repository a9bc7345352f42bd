"""Flower beyond the loopback: only with a password."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import httpx
import pytest
from cryptography.fernet import Fernet

from tests.launching import free_port

pytestmark = pytest.mark.system

EVERYWHERE = "0.0.0.0"  # noqa: S104 - refused, or guarded by a password
COMMAND = [sys.executable, "-m", "deploy.flower"]


def status_of(url: str, password: str | None = None) -> int | None:
    """Return the HTTP status, or None while nobody listens."""
    try:
        return httpx.get(url, auth=("ops", password) if password else None, timeout=5).status_code
    except httpx.TransportError:
        return None


def test_it_refuses_to_listen_to_everybody_without_a_password() -> None:
    environ = {**os.environ, "FLOWER_ADDRESS": EVERYWHERE}
    outcome = subprocess.run(COMMAND, env=environ, capture_output=True, text=True, check=False)
    assert outcome.returncode == 1
    assert outcome.stderr == (
        "flower: FLOWER_ADDRESS is 0.0.0.0: set FLOWER_USER and FLOWER_PASSWORD to listen beyond the loopback\n"
    )


def test_with_a_password_it_asks_for_it(redis_url: str, database_url: str) -> None:
    port = str(free_port())
    environ = {
        **os.environ,
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url,
        "SECRETS_KEY": Fernet.generate_key().decode(),
        "FLOWER_ADDRESS": EVERYWHERE,
        "FLOWER_PORT": port,
        "FLOWER_USER": "ops",
        "FLOWER_PASSWORD": "hunter2",
    }
    process = subprocess.Popen(COMMAND, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        url = f"http://127.0.0.1:{port}/tasks"
        while (status := status_of(url)) is None:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
        assert status == 401
        assert status_of(url, "hunter3") == 401
        assert status_of(url, "hunter2") == 200
    finally:
        process.terminate()
        process.communicate()
