"""The console's settings: who is believed to say who somebody is."""

from __future__ import annotations

import ipaddress

import pytest

from deploy.console.settings import ConsoleSettings
from shared.settings import SettingError, load

GIVEN = {"REDIS_URL": "redis://localhost:6379/0", "DATABASE_URL": "postgresql://localhost/db"}
PROXY = {"CONSOLE_PROXY_HEADER": "X-Forwarded-User", "CONSOLE_PROXY_FROM": "10.1.2.3, 10.2.0.0/16,::1"}


def test_by_default_it_listens_on_the_loopback_and_believes_no_header() -> None:
    settings = load(ConsoleSettings, GIVEN)
    assert (settings.host, settings.port, settings.proxy_header, settings.proxy_from) == ("127.0.0.1", 5556, "", ())
    assert settings.takes_secrets is False


def test_a_header_is_believed_from_the_networks_that_are_named() -> None:
    settings = load(ConsoleSettings, GIVEN | PROXY)
    assert settings.proxy_from == tuple(map(ipaddress.ip_network, ("10.1.2.3", "10.2.0.0/16", "::1")))


@pytest.mark.parametrize("variable", PROXY)
def test_a_header_without_its_addresses_is_refused_and_so_are_addresses_without_a_header(variable: str) -> None:
    with pytest.raises(SettingError, match=f"{variable} is not set"):
        load(ConsoleSettings, GIVEN | PROXY | {variable: ""})


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("CONSOLE_PROXY_FROM", "everywhere"),
        ("CONSOLE_PROXY_FROM", "10.2.0.1/16"),
        ("CONSOLE_PROXY_FROM", "0.0.0.0/0"),
        ("CONSOLE_PROXY_FROM", "::/0"),
        ("CONSOLE_PROXY_HEADER", "X Forwarded"),
        ("CONSOLE_PROXY_HEADER", "Origin"),
        ("CONSOLE_SECRETS", "maybe"),
        ("CONSOLE_URL", "console.example.com"),
        ("CONSOLE_URL", "http://console.example.com"),
        ("CONSOLE_URL", "https://example.com/console"),
        ("CONSOLE_URL", "https://"),
        ("CONSOLE_URL", "https://[::1"),
        ("CONSOLE_IDLE_SECONDS", "5"),
    ],
)
def test_what_cannot_be_meant_is_refused(variable: str, text: str) -> None:
    with pytest.raises(SettingError, match=f"{variable} is wrong: "):
        load(ConsoleSettings, GIVEN | PROXY | {variable: text})
