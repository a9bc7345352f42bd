"""One stack for all system tests, each test with a tenant of its own."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.launching import free_port
from tests.system.ledger import EFFECTS
from tests.system.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

TENANTS = (
    *("pair", "github", "latency", "anyone", "asynchronous", "endless", "permanent", "later", "independent", "unknown"),
    *("fatal", "bystander", "kills", "postgres-away", "redis-away", "redis-slow", "flushed", "frozen", "shutdown"),
    *("rotated", "disabled", "hasty", "patient", "flooding", "still", "alone", "noisy", "noisy-too", "prefixed"),
    *("lines", "watched", "jobs", "held"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.system)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    home = Path(tempfile.mkdtemp(prefix="pipeline-system-", dir="/tmp"))
    home.chmod(0o755)
    settings = {"INGRESS_WORKERS": "2", "HANDLER_WORKERS": "4", "INGEST_WORKERS": "2", "LOG_LEVEL": "info"}
    settings |= {"INGRESS_METRICS_PORT": str(free_port()), "EXPORTER_SECONDS": "1"}
    try:
        with Stack(home, handlers=("effects", "failures", "lines"), environ=settings) as it:
            it.query(EFFECTS)
            it.add_tenants(*TENANTS)
            yield it
    finally:
        shutil.rmtree(home, ignore_errors=True)
