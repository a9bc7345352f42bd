"""Settings are checked when they are read, and a wrong one is named in one line."""

from __future__ import annotations

import pytest
from cryptography.fernet import Fernet

from ingress.settings import IngressSettings
from shared.settings import SettingError, load
from workers.settings import WorkerSettings

GIVEN = {
    "REDIS_URL": "redis://localhost:6379/0",
    "DATABASE_URL": "postgresql://user:hidden@localhost/db",
    "SECRETS_KEY": Fernet.generate_key().decode(),
}


def test_what_is_unset_has_its_default() -> None:
    settings = load(WorkerSettings, GIVEN)
    assert settings.handlers == ("workers.handlers.example",)
    assert settings.drain_batch == 1000


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("REDIS_URL", "localhost:6379"),
        ("DATABASE_URL", "mysql://user:hidden@localhost/db"),
        ("SECRETS_KEY", "hidden"),
        ("SECRETS_KEY", ","),
        ("INGEST_SLOTS", "many"),
        ("INGEST_SLOTS", "0"),
        ("DRAIN_SECONDS", "inf"),
        ("DRAIN_SECONDS", "-1"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_a_wrong_value_is_named_in_one_line_without_secrets(variable: str, text: str) -> None:
    with pytest.raises(SettingError) as caught:
        load(WorkerSettings, GIVEN | {variable: text})
    assert str(caught.value).startswith(f"{variable} is wrong: ")
    assert "\n" not in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("variable", ["REDIS_URL", "SECRETS_KEY"])
def test_a_missing_value_is_named(variable: str) -> None:
    with pytest.raises(SettingError, match=f"{variable} is not set"):
        load(IngressSettings, {name: text for name, text in GIVEN.items() if name != variable})
