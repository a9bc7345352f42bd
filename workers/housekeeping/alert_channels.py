"""Where alerts are sent, from the file that ALERTS names: TOML with a table `[[channel]]` for each.

    [[channel]]
    name = "operations"
    type = "webhook"                      # signed as https://www.standardwebhooks.com says
    url = "https://example.com/alerts"
    secret = "whsec_..."

    [[channel]]
    name = "chat"
    type = "slack"                        # or anything that takes Slack's incoming webhooks, such as Mattermost
    url = "https://hooks.slack.com/services/..."

    [[channel]]
    name = "acme"
    type = "email"
    host = "smtp.example.com"
    from = "webhooks@example.com"
    to = ["ops@acme.example"]
    tenants = ["acme"]                    # of these only; all of them where it is left out

What is wrong with the file is a `ChannelError` of one line that repeats no secret.
"""

from __future__ import annotations

import base64
import binascii
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from pathlib import Path

_MOST: Final = 50
_PORTS: Final = {"starttls": 587, "tls": 465, "none": 25}
_HIGHEST_PORT: Final = 65_535


class ChannelError(Exception):
    """The file of channels cannot be used; the text is one line that says where and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A receiver of alerts; of those about all tenants, unless `tenants` names some."""

    name: str
    tenants: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook(Channel):
    """A POST that is signed with a key (Standard Webhooks)."""

    url: str
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slack(Channel):
    """An incoming webhook of Slack; who knows its URL may write."""

    url: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Email(Channel):
    """Mail by SMTP; `security` is starttls, tls or none."""

    host: str
    port: int
    security: str
    user: str
    password: str = field(repr=False)
    sender: str
    recipients: tuple[str, ...]


def read_channels(path: Path) -> list[Channel]:
    """Read the file.

    Raises:
        ChannelError: it cannot be read, or something in it is wrong.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ChannelError(f"ALERTS: {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ChannelError(f"ALERTS: {path} is no TOML: {error}") from None
    try:
        return parse_channels(content)
    except ChannelError as error:
        raise ChannelError(f"ALERTS: {path}: {error}") from None


def parse_channels(content: dict[str, Any]) -> list[Channel]:
    """Return the channels of the file's content.

    Raises:
        ChannelError: something in it is wrong.
    """
    if unknown := sorted(set(content) - {"channel"}):
        raise ChannelError(f"{unknown[0]!r} is not known; write [[channel]]")
    tables = content.get("channel", [])
    if not isinstance(tables, list) or not all(isinstance(it, dict) for it in tables):
        raise ChannelError("write [[channel]], with two brackets, for each channel")
    if len(tables) > _MOST:
        raise ChannelError(f"there are {len(tables)} channels, and {_MOST} are the most")
    channels = [_Table(it).channel() for it in tables]
    names = [it.name for it in channels]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ChannelError(f"two channels are named {twice[0]!r}")
    return channels


class _Table:
    """One channel's table, whose values are taken out one by one."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = dict(values)
        self._about = f"the channel {values.get('name', '?')!r}"

    def channel(self) -> Channel:
        name, kind, tenants = self._text("name"), self._text("type"), self._tenants()
        channel: Channel
        match kind:
            case "webhook":
                channel = Webhook(name=name, tenants=tenants, url=self._url(), key=self._key())
            case "slack":
                channel = Slack(name=name, tenants=tenants, url=self._url())
            case "email":
                channel = self._email(name, tenants)
            case _:
                raise ChannelError(f"{self._about} has type {kind!r}: webhook, slack or email is expected")
        if self._values:
            raise ChannelError(f"{self._about} has {min(self._values)!r}, which a channel of type {kind} has not")
        return channel

    def _email(self, name: str, tenants: tuple[str, ...] | None) -> Email:
        security = self._text("security", "starttls")
        if security not in _PORTS:
            raise ChannelError(f"{self._about}: security is starttls, tls or none, not {security!r}")
        port = self._values.pop("port", _PORTS[security])
        if not isinstance(port, int) or not 0 < port <= _HIGHEST_PORT:
            raise ChannelError(f"{self._about}: port is a number up to {_HIGHEST_PORT}")
        user, password = self._text("user", ""), self._text("password", "")
        if bool(user) != bool(password):
            raise ChannelError(f"{self._about} needs user and password, or neither")
        if user and security == "none":
            raise ChannelError(f"{self._about} would send its password in the clear: security is starttls or tls")
        return Email(
            name=name,
            tenants=tenants,
            host=self._text("host"),
            port=port,
            security=security,
            user=user,
            password=password,
            sender=self._address(self._text("from")),
            recipients=tuple(map(self._address, self._texts("to"))),
        )

    def _text(self, key: str, default: str | None = None) -> str:
        value = self._values.pop(key, default)
        if not isinstance(value, str) or (default is None and not value):
            raise ChannelError(f"{self._about} needs a text {key!r}")
        return value

    def _texts(self, key: str) -> list[str]:
        value = self._values.pop(key, None)
        if not isinstance(value, list) or not value or not all(isinstance(it, str) and it for it in value):
            raise ChannelError(f"{self._about} needs {key!r}, a list of texts")
        return value

    def _tenants(self) -> tuple[str, ...] | None:
        return tuple(self._texts("tenants")) if "tenants" in self._values else None

    def _url(self) -> str:
        url = self._text("url")
        try:
            parts = urlsplit(url)
            is_fit = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_fit = False
        if not is_fit or not url.isascii() or not url.isprintable() or " " in url:
            raise ChannelError(f"{self._about} needs a URL that begins with https:// or http://")
        return url

    def _key(self) -> bytes:
        text = self._text("secret")
        try:
            key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not 24 <= len(key) <= 64:  # noqa: PLR2004 - Standard Webhooks
            raise ChannelError(f"{self._about}: secret is whsec_ and 24 to 64 bytes in base64")
        return key

    def _address(self, text: str) -> str:
        name, at, host = text.rpartition("@")
        if not (name and at and host) or not text.isprintable() or set(text) & set(" ,;<>"):
            raise ChannelError(f"{self._about}: {text!r} is no address of e-mail")
        return text
