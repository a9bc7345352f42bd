"""A whole installation whose processes have the rights of three roles, and no more."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psycopg
import pytest

from tests.moveris import completed, other
from tests.roles import Roles, parted_roles
from tests.system.ledger import EFFECTS, delivery, wait_until_settled
from tests.system.provider import Endpoint
from tests.system.site import TENANT, WORKERS, Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.local.service import Server


@pytest.fixture
def roles(postgres_server: Server) -> Iterator[Roles]:
    with parted_roles(postgres_server.url, schema="pipeline") as it:
        with psycopg.connect(it.handlers, autocommit=True) as team:
            team.execute(EFFECTS)
        yield it


@pytest.fixture
def site(roles: Roles, redis_url: str) -> Iterator[Site]:
    """Workers and commands are the application, handlers write as themselves, housekeeping is the owner."""
    home = Path(tempfile.mkdtemp(prefix="pipeline-roles-", dir="/tmp"))
    path = "?options=-csearch_path%3Dpipeline,team"  # for the queries of this test
    settings = {
        "DATABASE_URL": roles.application,
        "DATABASE_SCHEMA": roles.schema,
        "HANDLER_DATABASE_URL": roles.handlers,
        "HANDLERS": "tests.system.handlers.effects,tests.system.handlers.failures",
    }
    try:
        with Site(home, database_url=roles.admin + path, redis_url=redis_url, **settings) as it:
            for name in WORKERS:
                it.start(name, DATABASE_URL=roles.owner if name == "housekeeping" else roles.application)
            it.start("ingress 1")
            it.add_tenant()
            yield it
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.mark.long
@pytest.mark.timeout(120)
def test_events_are_handled_and_operated_with_the_rights_of_three_roles(roles: Roles, site: Site) -> None:
    with httpx.Client() as client:
        ingress = site.urls[0].partition("/webhooks")[0]
        endpoint = Endpoint(ingress_url=ingress, tenant=TENANT, secret=site.secret, client=client)
        ids = [endpoint.deliver(completed()) for _ in range(20)]
        permanent, later = endpoint.deliver(other("failure.permanent")), endpoint.deliver(other("failure.later"))
        settled = wait_until_settled(site, [*ids, later], seconds=30)
        assert (settled.missing, settled.undelivered, settled.succeeded) == (0, 0, 41)
        delivery(site, permanent, "failures.permanent", "dead", seconds=20)
        site.pipeline("deliveries", "retry", permanent)
        delivery(site, permanent, "failures.permanent", "dead", seconds=20)
        site.pipeline("tenants", "limit", TENANT, "--in-flight", "5")
        site.pipeline("endpoints", "disable", TENANT, "--provider", "moveris")
    assert TENANT in site.pipeline("stats")
    sessions = site.query(
        "SELECT DISTINCT application_name, usename::text AS role FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name IN ('pipeline worker', 'pipeline handler')"
    )
    assert {(row["application_name"], row["role"]) for row in sessions} == {
        ("pipeline worker", roles.name("application")),
        ("pipeline worker", roles.name("owner")),
        ("pipeline handler", roles.name("handlers")),
    }
    assert len(site.query("SELECT FROM effects")) == 41
