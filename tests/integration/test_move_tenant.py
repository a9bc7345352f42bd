"""A tenant moves from one cell to another by the commands of deploy/SCALING.md."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.test_dedup import entry, store_batch
from workers.store import limits, tenants
from workers.store.connect import connect
from workers.store.limits import Limit

if TYPE_CHECKING:
    from workers.store.connect import Connection

PAGE = Path(__file__).parents[2] / "deploy" / "SCALING.md"

pytestmark = pytest.mark.skipif(
    shutil.which("psql") is None, reason="psql is not installed: apt-get install postgresql-client"
)


def move(tenant: str, *, source: str, target: str) -> None:
    (commands,) = re.findall(r"^ +```sh\n(.*?)```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    environ = os.environ | {"FROM": source, "TO": target, "TENANT": tenant}
    done = subprocess.run(["sh", "-ec", commands], env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_tenant_that_has_moved_is_known_there_and_its_events_still_count_once(
    connection: Connection, database_url: str, other_url: str
) -> None:
    for name in ("acme", "globex"):
        tenants.add_tenant(connection, name)
        tenants.add_endpoint(
            connection, tenant=name, provider="in-house", scheme="hmac", label="first", ciphertext=f"of {name}".encode()
        )
        store_batch(connection, [entry("one", tenant=name)])
    tenants.limit_tenant(connection, "acme", 5)
    limits.limit_handler(connection, Limit(handler="acme.run", tenant="acme", max_in_flight=3, rate=None))
    with connect(other_url, name="test") as there:
        before = tenants.registry_version(there)
        move("acme", source=database_url, target=other_url)
        assert tenants.registry_version(there) > before, "housekeeping publishes it"
        for table in ("tenants", "endpoints", "endpoint_secrets", "handler_limits"):
            column = "name" if table == "tenants" else "tenant"
            asked = f"SELECT * FROM {table} WHERE {column} = 'acme'"
            assert there.execute(asked).fetchall() == connection.execute(asked).fetchall() != []
        assert store_batch(there, [entry("one"), entry("two")]).duplicates == 1
        assert store_batch(there, [entry("one", tenant="globex")]).duplicates == 0
