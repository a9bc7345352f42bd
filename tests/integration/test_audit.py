"""The audit: every change by a person, who made it and why; never a secret."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psycopg
import pytest

from workers.store import audit, limits, tenants
from workers.store.limits import Limit

if TYPE_CHECKING:
    from workers.store.connect import Connection


def test_a_change_of_a_tenant_says_who_when_why_and_what_was_before_and_after(connection: Connection) -> None:
    audit.act_as(connection, "alice", "their API is down")
    tenants.add_tenant(connection, "acme")
    tenants.limit_tenant(connection, "acme", 5)
    changed, added = audit.list_entries(connection, limit=10)
    assert (added.who, added.what, added.target, added.before) == ("alice", "tenants added", "acme", None)
    assert (changed.what, changed.before, changed.after) == (
        "tenants changed",
        {"max_in_flight": None},
        {"max_in_flight": 5},
    )
    assert changed.why == "their API is down"
    assert (datetime.now(UTC) - changed.at).total_seconds() < 60


def test_no_secret_is_ever_in_it(connection: Connection) -> None:
    tenants.add_tenant(connection, "acme")
    tenants.add_endpoint(
        connection, tenant="acme", provider="moveris", scheme="moveris", label="v1", ciphertext=b"hidden-1"
    )
    tenants.replace_ciphertexts(connection, {("acme", "moveris", "v1"): (b"hidden-1", b"hidden-2")})
    tenants.expire_secret(connection, tenant="acme", provider="moveris", label="v1", at=datetime.now(UTC))
    entries = audit.list_entries(connection, limit=10, what="endpoint_secrets")
    assert [it.what for it in entries] == [
        "endpoint_secrets changed",
        "endpoint_secrets changed",
        "endpoint_secrets added",
    ]
    assert entries[1].after == {"encrypted": "anew"}
    assert b"hidden".hex() not in str(entries)
    assert "hidden" not in str(entries)


def test_a_change_that_changes_nothing_and_the_counting_of_admission_are_none(connection: Connection) -> None:
    tenants.add_tenant(connection, "acme")
    tenants.limit_tenant(connection, "acme", None)
    limit = Limit(handler="acme.grant", tenant="*", max_in_flight=None, rate=5.0)
    limits.limit_handler(connection, limit)
    limits.take_tokens(
        connection, [(it, 1) for it in limits.list_allowances(connection, handlers=["acme.grant"], tenants=["acme"])]
    )
    assert [it.what for it in audit.list_entries(connection, limit=10)] == ["handler_limits added", "tenants added"]


def test_what_somebody_does_with_psql_is_recorded_as_their_role(connection: Connection) -> None:
    connection.execute("INSERT INTO tenants (name) VALUES ('acme')")
    (entry,) = audit.list_entries(connection, limit=10)
    assert (entry.who, entry.why) == ("postgres", None)


@pytest.mark.parametrize("change", ["UPDATE audit SET who = 'bob'", "DELETE FROM audit", "TRUNCATE audit"])
def test_nothing_is_ever_taken_out_or_rewritten(connection: Connection, change: str) -> None:
    tenants.add_tenant(connection, "acme")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
        connection.execute(change)
    assert len(audit.list_entries(connection, limit=10)) == 1


def test_the_list_narrows_by_person_kind_target_time_and_page(connection: Connection) -> None:
    audit.act_as(connection, "alice")
    for name in ("acme", "acme-2"):
        tenants.add_tenant(connection, name)
    tenants.add_endpoint(connection, tenant="acme", provider="moveris", scheme="moveris", label="v1", ciphertext=b"x")
    audit.record(connection, what="body shown", target="0198c0de", who="bob")

    def found(**narrowed: object) -> list[str]:
        return [it.target for it in audit.list_entries(connection, limit=10, **narrowed)]  # type: ignore[arg-type]

    assert found(who="bob") == ["0198c0de"]
    assert found(what="tenants") == ["acme-2", "acme"]
    assert found(target="acme") == ["acme moveris v1", "acme moveris", "acme"]
    assert found(since=datetime(2100, 1, 1, tzinfo=UTC)) == []
    last = audit.list_entries(connection, limit=1)
    assert len(found(before_id=last[0].id)) == 4
