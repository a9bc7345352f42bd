"""The commands where the inbox and Celery's queues are on two Redis."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.ingress_process import Valkey, own_valkey
from tests.names import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.cli.conftest import Pipeline


@pytest.fixture
def broker() -> Iterator[Valkey]:
    with own_valkey() as it:
        yield it


@pytest.fixture
def apart(pipeline: Pipeline, broker: Valkey) -> Pipeline:
    """Commands that are told of both."""
    return replace(pipeline, environ=pipeline.environ | {"BROKER_URL": broker.url})


def test_stats_and_doctor_look_at_both(apart: Pipeline, broker: Valkey) -> None:
    with broker.client() as client:
        client.lpush(NAMES.handlers_queue, "message")
    (figures, *_) = apart.json("stats")
    assert (figures["handler_messages"], figures["inbox_length"]) == (1, 0)
    found = {row["thing"]: row["state"] for row in apart("doctor", "--json", status=None).rows}
    assert (found["broker version"], found["broker role"], found["redis role"]) == ("ok", "ok", "ok")


def test_env_names_both(apart: Pipeline, broker: Valkey) -> None:
    lines = dict(line.split("=", 1) for line in apart("env").out.decode().splitlines())
    assert (lines["BROKER_URL"], lines["INBOX_URL"]) == (broker.url, apart.environ["REDIS_URL"])
    assert "REDIS_URL" not in lines


def test_adopt_takes_both(apart: Pipeline, broker: Valkey) -> None:
    own = apart.json("adopt")[0]["identity"]
    with broker.client() as client:
        assert client.get(NAMES.identity) == own.encode()
