"""The file of channels: what it may say, and what is wrong with it in one line."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import pytest

from workers.housekeeping.alert_channels import ChannelError, Email, Slack, Webhook, parse_channels, read_channels

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
GOOD = f"""
[[channel]]
name = "operations"
type = "webhook"
url = "https://example.com/alerts"
secret = "{SECRET}"

[[channel]]
name = "chat"
type = "slack"
url = "https://hooks.slack.com/services/hidden"

[[channel]]
name = "acme"
type = "email"
host = "smtp.example.com"
from = "webhooks@example.com"
to = ["ops@acme.example"]
tenants = ["acme"]
"""


def test_three_kinds_of_channels_are_read(tmp_path: Path) -> None:
    path = tmp_path / "alerts.toml"
    path.write_text(GOOD)
    webhook, slack, email = read_channels(path)
    assert isinstance(webhook, Webhook)
    assert (webhook.tenants, len(webhook.key)) == (None, 24)
    assert isinstance(slack, Slack)
    assert isinstance(email, Email)
    assert (email.tenants, email.port, email.security, email.user) == (("acme",), 587, "starttls", "")
    assert "hidden" not in repr(slack)
    assert "key" not in repr(webhook)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('[[channel]]\nname = "chat"', '[[canal]]\nname = "chat"', "'canal' is not known"),
        ('name = "chat"', 'name = "operations"', "two channels are named 'operations'"),
        ('type = "slack"', 'type = "pager"', "'chat' has type 'pager'"),
        ('url = "https://hooks', 'link = "https://hooks', "'chat' needs a text 'url'"),
        ("https://hooks.slack.com/", "ftp://hooks.slack.com/", "'chat' needs a URL that begins with https://"),
        (SECRET, "whsec_hidden", "'operations': secret is whsec_ and 24 to 64 bytes"),
        ('host = "smtp.example.com"', 'host = "smtp.example.com"\nuser = "me"', "'acme' needs user and password"),
        (
            'host = "smtp.example.com"',
            'host = "smtp.example.com"\nuser = "me"\npassword = "hidden"\nsecurity = "none"',
            "'acme' would send its password in the clear",
        ),
        (
            'host = "smtp.example.com"',
            'host = "smtp.example.com"\nsecurity = "ssl"',
            "security is starttls, tls or none",
        ),
        ('host = "smtp.example.com"', 'host = "smtp.example.com"\nport = 0', "port is a number"),
        ('["ops@acme.example"]', '"ops@acme.example"', "'acme' needs 'to', a list of texts"),
        ('["ops@acme.example"]', '["ops"]', "'ops' is no address of e-mail"),
        ('tenants = ["acme"]', "tenants = []", "'acme' needs 'tenants', a list of texts"),
        ('tenants = ["acme"]', 'tenant = ["acme"]', "'acme' has 'tenant', which a channel of type email has not"),
    ],
)
def test_what_is_wrong_is_said_with_the_channel_and_without_a_secret(old: str, new: str, why: str) -> None:
    assert old in GOOD
    with pytest.raises(ChannelError) as raised:
        parse_channels(tomllib.loads(GOOD.replace(old, new)))
    assert why in str(raised.value)
    assert "hidden" not in str(raised.value)


def test_a_file_that_is_missing_or_no_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "alerts.toml"
    with pytest.raises(ChannelError, match=r"alerts\.toml cannot be read"):
        read_channels(path)
    path.write_text("[[channel")
    with pytest.raises(ChannelError, match=r"alerts\.toml is no TOML"):
        read_channels(path)
