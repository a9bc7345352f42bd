"""Migrations are applied once, and a newer database is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from workers.store.migrate import MigrationError, migrate, migrations

if TYPE_CHECKING:
    from workers.store.connect import Connection


def test_a_migrated_database_has_nothing_left_to_apply(connection: Connection) -> None:
    assert migrate(connection) == []


def test_a_database_of_a_newer_version_is_refused(connection: Connection) -> None:
    connection.execute("INSERT INTO migrations (name) VALUES ('9999_pre_future')")
    with pytest.raises(MigrationError, match="9999_pre_future"):
        migrate(connection)


def test_every_migration_names_its_phase() -> None:
    assert migrations() == sorted(migrations("pre") + migrations("post"))
