"""What the console reads from the environment; see `shared.settings`."""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from deploy.local.settings import CONSOLE_PORT_ABOUT, INGRESS_URL_ABOUT
from shared.settings import (
    ALERTS_ABOUT,
    DatabaseSettings,
    HeartbeatSettings,
    LogSettings,
    RedisSettings,
    SettingError,
    address,
    fernet_keys,
    file_path,
    http_url,
    integer,
    is_loopback,
    port,
    setting,
)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_TOKEN: Final = re.compile(r"[A-Za-z0-9-]{1,100}")
_OF_EVERY_BROWSER: Final = frozenset({"host", "cookie", "origin", "referer", "user-agent", "accept", "authorization"})


def header_name(text: str) -> str:
    """Parse the name of a header that only a proxy sets, such as X-Forwarded-User; empty for none."""
    if text and not _TOKEN.fullmatch(text):
        raise ValueError(f"the name of a header such as X-Forwarded-User is expected, not {text!r}")
    if text.lower() in _OF_EVERY_BROWSER:
        raise ValueError(f"every browser may send {text}: take a header that only the proxy sets")
    return text


def console_url(text: str) -> str:
    """Parse the URL that browsers reach the console at; empty for none."""
    if not text:
        return ""
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError(f"a URL without a path, such as https://hooks.example.com, is expected, not {text!r}")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError(f"{text} is not encrypted, and no browser would send a session's cookie there: take https")
    return text.rstrip("/")


def networks(text: str) -> tuple[Network, ...]:
    """Parse a comma-separated list of addresses and networks, such as 10.1.2.3,10.2.0.0/16,::1."""
    found = []
    for part in filter(None, map(str.strip, text.split(","))):
        try:
            network = ipaddress.ip_network(part)
        except ValueError as error:
            raise ValueError(f"addresses and networks such as 10.1.2.3,10.2.0.0/16 are expected: {error}") from None
        if network.prefixlen == 0:
            raise ValueError(f"{part} is every address, so that anybody could say who they are: name the proxy's own")
        found.append(network)
    return tuple(found)


def field_paths(text: str) -> tuple[tuple[str, ...], ...]:
    """Parse a comma-separated list of fields, such as data.model,data.verdict."""
    paths = tuple(tuple(it.split(".")) for it in filter(None, map(str.strip, text.split(","))))
    if not all(all(path) for path in paths):
        raise ValueError(f"fields such as data.model,data.verdict are expected, not {text!r}")
    return paths


def yes_or_no(text: str) -> bool:
    """Parse yes or no, in any case."""
    if text.lower() not in {"yes", "no"}:
        raise ValueError(f"yes or no is expected, not {text!r}")
    return text.lower() == "yes"


@dataclass(frozen=True, kw_only=True)
class ConsoleSettings(DatabaseSettings, RedisSettings, HeartbeatSettings, LogSettings):
    """Settings of the console; a proxy's header and the addresses that it may come from are both there, or neither."""

    host: str = setting("CONSOLE_HOST", "127.0.0.1", address, "address on which the console listens")
    port: int = setting("CONSOLE_PORT", "5556", port, CONSOLE_PORT_ABOUT)
    url: str = setting(
        "CONSOLE_URL",
        "",
        console_url,
        "where browsers reach the console behind a proxy, such as https://hooks.example.com; it passes Host on",
    )
    proxy_header: str = setting(
        "CONSOLE_PROXY_HEADER",
        "",
        header_name,
        "header in which an authenticating proxy names the console's user, such as X-Forwarded-User; empty: none is "
        "trusted",
    )
    proxy_from: tuple[Network, ...] = setting(
        "CONSOLE_PROXY_FROM",
        "",
        networks,
        "comma-separated addresses and networks of that proxy: from others the header is ignored",
    )
    idle_seconds: int = setting(
        "CONSOLE_IDLE_SECONDS",
        "3600",
        integer(at_least=60),
        "time without a request after which a session ends, refreshing pages aside, seconds",
    )
    session_seconds: int = setting(
        "CONSOLE_SESSION_SECONDS", "43200", integer(at_least=60), "time after which a session ends anyway, seconds"
    )
    takes_secrets: bool = setting(
        "CONSOLE_SECRETS",
        "no",
        yes_or_no,
        "whether the console may add secrets of endpoints, yes or no; it then needs SECRETS_KEY",
    )

    secrets_key: tuple[str, ...] | None = setting(
        "SECRETS_KEY", "", lambda text: fernet_keys(text) if text else None, "Fernet key(s) of the endpoints' secrets"
    )
    search_fields: tuple[tuple[str, ...], ...] = setting(
        "CONSOLE_SEARCH_FIELDS",
        "",
        field_paths,
        "comma-separated fields of JSON bodies in which the console looks for a text, such as data.model; empty: none",
    )
    alerts: Path | None = setting("ALERTS", "", file_path, ALERTS_ABOUT)
    flower_url: str = setting(
        "CONSOLE_FLOWER_URL", "", http_url, "where browsers reach Flower, for the console's link to it; none by default"
    )
    ingress_url: str = setting("INGRESS_URL", "", http_url, INGRESS_URL_ABOUT)

    def __post_init__(self) -> None:
        """Check what belongs together.

        Raises:
            SettingError: one is there without the other.
        """
        super().__post_init__()
        if self.proxy_header and not self.proxy_from:
            raise SettingError(
                "CONSOLE_PROXY_FROM is not set: name the addresses that CONSOLE_PROXY_HEADER may come from"
            )
        if self.takes_secrets and self.secrets_key is None:
            raise SettingError("SECRETS_KEY is not set: with CONSOLE_SECRETS=yes the console encrypts secrets with it")
        if self.proxy_from and not self.proxy_header:
            raise SettingError("CONSOLE_PROXY_HEADER is not set: name the header that CONSOLE_PROXY_FROM sends")
