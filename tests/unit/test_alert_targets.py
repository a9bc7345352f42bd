"""Where a channel leads is shown to everybody who may look, so that nothing secret is in it."""

from __future__ import annotations

import pytest

from deploy.cli.alerts import target
from workers.housekeeping.alert_channels import Slack, Webhook


@pytest.mark.parametrize("kind", [Slack, Webhook])
def test_of_a_url_only_the_host_is_shown(kind: type[Slack | Webhook]) -> None:
    more = {"key": b"k"} if kind is Webhook else {}
    channel = kind(name="chat", tenants=(), url="https://user:secret@hooks.example:8443/T0/secret?token=secret", **more)
    assert target(channel) == "hooks.example:8443"
