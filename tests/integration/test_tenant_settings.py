"""Settings of tenants: set by people, read by handlers with the next delivery, checked before the handler is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from tests.integration.test_admission import plan_of
from workers.dispatch.outcomes import describe
from workers.dispatch.tenant_settings import read_settings
from workers.errors import SettingsError
from workers.housekeeping.causes import cause_of
from workers.store import audit, deliveries, tenants
from workers.store.refusals import BadNameError, BadSettingError, SettingsTooLargeError, UnknownTenantError

if TYPE_CHECKING:
    from tests.integration.conftest import AddDeliveries
    from workers.store.connect import Connection


class Crm(BaseModel):
    crm_url: str
    timeout: float = 5.0


def claim(connection: Connection, ids: list[Any]) -> list[Any]:
    connection.execute("UPDATE deliveries SET state = 'queued', ready = false, lease_until = now()")
    claimed, _ = deliveries.claim(connection, "acme.run", ids, worker="w", lease=60.0)
    return [it.settings for it in claimed]


def test_what_is_set_comes_with_the_next_claim_and_is_in_the_audit(
    connection: Connection, add_deliveries: AddDeliveries
) -> None:
    tenants.add_tenant(connection, "acme")
    assert claim(connection, add_deliveries(1)) == [None]
    tenants.set_settings(connection, "acme", {"crm_url": "https://one", "timeout": 3})
    assert claim(connection, add_deliveries(1)) == [{"crm_url": "https://one", "timeout": 3}]
    tenants.set_settings(connection, "acme", {"crm_url": "https://two"}, unset=["timeout", "never-set"])
    assert claim(connection, add_deliveries(2)) == [{"crm_url": "https://two"}] * 2
    (entry,) = audit.list_entries(connection, limit=1)
    assert (entry.what, entry.after) == ("tenants changed", {"settings": {"crm_url": "https://two"}})


def test_what_cannot_be_set_is_refused_and_changes_nothing(connection: Connection) -> None:
    tenants.add_tenant(connection, "acme")
    with pytest.raises(UnknownTenantError):
        tenants.set_settings(connection, "nobody", {"a": 1})
    with pytest.raises(BadNameError, match="cannot name a setting"):
        tenants.set_settings(connection, "acme", {"a b": 1})
    with pytest.raises(SettingsTooLargeError):
        tenants.set_settings(connection, "acme", {"a": "x" * 20_000})
    assert tenants.find_tenant(connection, "acme").settings == {}


@pytest.mark.parametrize("value", ["\0", "\ud800", {"a": ["\0"]}, float("inf"), float("nan")])
def test_a_value_that_postgres_cannot_hold_is_refused(connection: Connection, value: object) -> None:
    tenants.add_tenant(connection, "acme")
    with pytest.raises(BadSettingError, match="Postgres cannot hold the value of a"):
        tenants.set_settings(connection, "acme", {"a": value})


def test_a_value_that_a_worker_with_a_deep_stack_could_not_read_is_refused(connection: Connection) -> None:
    tenants.add_tenant(connection, "acme")
    value: object = 1
    for _ in range(20):
        value = [value]
    tenants.set_settings(connection, "acme", {"a": value})
    with pytest.raises(BadSettingError, match="nested more than 20 deep"):
        tenants.set_settings(connection, "acme", {"a": {"b": value}})
    assert tenants.find_tenant(connection, "acme").settings == {"a": value}


def test_ten_thousand_tenants_cost_a_claim_one_probe_a_delivery(
    connection: Connection, add_deliveries: AddDeliveries
) -> None:
    connection.execute(
        "INSERT INTO tenants (name, settings) SELECT 't' || n, '{\"a\": 1}' FROM generate_series(1, 10000) AS n"
    )
    connection.execute("ANALYZE tenants")
    ids = add_deliveries(20)
    connection.execute("UPDATE deliveries SET state = 'queued', ready = false, lease_until = now()")
    values = {"worker": "w", "alone": False, "lease": 60.0, "event_ids": ids, "handler": "acme.run"}
    assert "Seq Scan on tenants" not in plan_of(connection, "claim", values)


def failure(model: type[BaseModel] | None, tenant: str, values: dict[str, Any]) -> str:
    with pytest.raises(SettingsError) as caught:
        read_settings(model, tenant, values)["crm_url"]
    return describe(caught.value)[0]


def test_settings_are_a_mapping_or_an_object_of_the_model_of_the_handler() -> None:
    settings = read_settings(None, "acme", {"crm_url": "https://one"})
    assert (settings["crm_url"], dict(settings), settings.get("none"), "none" in settings) == (
        *("https://one", {"crm_url": "https://one"}, None, False),
    )
    assert read_settings(Crm, "acme", {"crm_url": "https://one"}) == Crm(crm_url="https://one")


@pytest.mark.parametrize("model", [None, Crm])
def test_a_forgotten_setting_names_itself_the_tenant_and_the_command_and_is_one_cause_for_all_tenants(
    model: type[BaseModel] | None,
) -> None:
    error = failure(model, "acme", {"timeout": 3})
    assert error.startswith("SettingsError: the setting")
    assert "crm_url" in error
    assert "`pipeline tenants set acme crm_url=…`" in error
    assert cause_of(error) == cause_of(failure(model, "tenant-81", {}))
    assert cause_of(error) != cause_of(error.replace("crm_url", "api_url"))


def test_a_wrong_setting_is_named_without_its_value() -> None:
    error = failure(Crm, "acme", {"crm_url": "https://one", "timeout": "hunter2"})
    assert "timeout (Input should be a valid number" in error
    assert "hunter2" not in error
