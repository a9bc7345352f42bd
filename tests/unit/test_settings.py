"""Settings are checked when they are read, and a wrong one is named in one line."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from cryptography.fernet import Fernet

from deploy.flower.settings import FlowerSettings
from deploy.local.settings import GivenSettings, StackSettings
from ingress.settings import IngressSettings
from shared.redis_url import redis_url
from shared.settings import RedisSettings, SettingError, describe, load
from workers.broker import broker_options, broker_tls, broker_url
from workers.settings import WorkerSettings

GIVEN = {
    "REDIS_URL": "redis://localhost:6379/0",
    "DATABASE_URL": "postgresql://user:hidden@localhost/db",
    "SECRETS_KEY": Fernet.generate_key().decode(),
}


def test_what_is_unset_has_its_default() -> None:
    settings = load(WorkerSettings, GIVEN)
    assert settings.handlers == ()
    assert settings.drain_batch == 500


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("REDIS_URL", "localhost:6379"),
        ("REDIS_URL", "redis://:hid#den@localhost/0"),
        ("REDIS_URL", "redis://:hid@den@localhost/0"),
        ("REDIS_URL", "redis://:hidden@local host/0"),
        ("REDIS_URL", "redis://:hidden@localhost/first"),
        ("REDIS_URL", "redis://:hidden@localhost:many/0"),
        ("REDIS_URL", "redis://:hidden@localhost/0?timeout=3"),
        ("REDIS_URL", "redis://:hidden@localhost/0?protocol=3"),
        ("REDIS_URL", "redis://:hidden@localhost/0?visibility_timeout=3"),
        ("REDIS_URL", "redis://:hidden@localhost/0?health_check_interval=often"),
        ("REDIS_URL", "redis://:hidden@localhost/0?ssl_ca_certs=/ca.pem"),
        ("REDIS_URL", "rediss://:hidden@localhost/0?ssl_min_version=771"),
        ("REDIS_URL", "rediss://:hidden@localhost/0?ssl_cert_reqs=sometimes"),
        ("REDIS_URL", "unix://:hidden@"),
        ("REDIS_URL", "redis+sentinel://:hidden@one,two"),
        ("REDIS_URL", "redis+sentinel://:hidden@one,two/mymaster/0"),
        ("REDIS_URL", "redis+sentinel://:hidden@one,two:many/mymaster"),
        ("REDIS_URL", "redis+sentinel://:hid#den@one,two/mymaster"),
        ("INBOX_URL", "redis+cluster://:hidden@one,two/1"),
        ("INBOX_URL", "redis+cluster://:hidden@one,two?timeout=3"),
        ("BROKER_URL", "redis+cluster://:hidden@one,two"),
        ("DATABASE_URL", "postgresql://user:hidden\r@localhost/db"),
        ("DATABASE_URL", "mysql://user:hidden@localhost/db"),
        ("SECRETS_KEY", "hidden"),
        ("SECRETS_KEY", ","),
        ("DRAIN_BATCH", "many"),
        ("DRAIN_BATCH", "0"),
        ("DRAIN_SECONDS", "inf"),
        ("DRAIN_SECONDS", "-1"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("INBOX_HIGH_WATER", "most"),
        ("INBOX_HIGH_WATER", "0"),
        ("INBOX_HIGH_WATER", "1.01"),
        ("INBOX_TIMEOUT", "1"),
        ("INGRESS_PORT", "0"),
        ("INGRESS_PORT", "65536"),
        ("INGRESS_METRICS_PORT", "-1"),
        ("INGRESS_HOST", "local host"),
    ],
)
def test_a_wrong_value_is_named_in_one_line_without_secrets(variable: str, text: str) -> None:
    kind = IngressSettings if variable.startswith(("SECRETS_KEY", "INBOX", "INGRESS")) else WorkerSettings
    with pytest.raises(SettingError) as caught:
        load(kind, GIVEN | {variable: text})
    assert str(caught.value).startswith(f"{variable} is wrong: ")
    assert "\n" not in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        *(("INBOX_HIGH_WATER", "1"), ("INBOX_TIMEOUT", "0.99")),
        *(("INGRESS_PORT", "65535"), ("INGRESS_PORT", "1"), ("INGRESS_METRICS_PORT", "0")),
        ("INGRESS_WAITING_BYTES", "1"),
    ],
)
def test_a_value_at_its_bound_is_taken(variable: str, text: str) -> None:
    settings = load(IngressSettings, GIVEN | {variable: text})
    found = {field.metadata["variable"]: getattr(settings, field.name) for field in fields(settings)}
    assert found[variable] == float(text)


@pytest.mark.parametrize("variable", ["REDIS_URL", "SECRETS_KEY"])
def test_a_missing_value_is_named(variable: str) -> None:
    with pytest.raises(SettingError, match=f"{variable} is not set"):
        load(IngressSettings, {name: text for name, text in GIVEN.items() if name != variable})


@pytest.mark.parametrize("variable", [*GIVEN, "HANDLERS", "DRAIN_BATCH", "DRAIN_SECONDS", "LOG_LEVEL"])
def test_carriage_returns_and_what_nobody_sees_around_a_value_are_ignored(variable: str) -> None:
    given = {"HANDLERS": "acme.handlers", "DRAIN_BATCH": "7", "DRAIN_SECONDS": "2", "LOG_LEVEL": "debug"} | GIVEN
    assert load(WorkerSettings, given | {variable: f"\ufeff {given[variable]}\r\n"}) == load(WorkerSettings, given)


@pytest.mark.parametrize("settings", [WorkerSettings, IngressSettings, StackSettings, FlowerSettings, GivenSettings])
@pytest.mark.parametrize("empty", ["", " ", "\r"])
def test_an_empty_value_counts_as_unset(settings: type[Any], empty: str) -> None:
    needed = {"REDIS_URL"} if issubclass(settings, RedisSettings) else set()  # that or two others
    optional = {it.variable for it in describe(settings) if it.default != "(required)"}
    blank = dict.fromkeys(optional - needed, empty)
    assert load(settings, GIVEN | blank) == load(settings, {name: GIVEN[name] for name in GIVEN if name not in blank})


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("redis://host", "redis://host/0"),
        ("redis://host:6380/3", "redis://host:6380/3"),
        ("redis://host/?db=3", "redis://host/3"),
        ("redis://host/1?db=3", "redis://host/3"),
        ("redis://host/0?username=a&password=b%2F", "redis://a:b%2F@host/0"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("redis://host/0?socket_timeout=3&retry_on_timeout=yes", "redis://host/0"),
        ("redis://host/0?health_check_interval=30", "redis://host/0?health_check_interval=30"),
        ("rediss://host/0?ssl_cert_reqs=CERT_NONE", "rediss://host/0?ssl_cert_reqs=none"),
        ("rediss://host/0?ssl_check_hostname=0", "rediss://host/0?ssl_check_hostname=false"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock?db=0"),
        ("unix:///run/redis.sock?db=3&password=b", "unix://:b@/run/redis.sock?db=3"),
        ("redis+sentinel://:a%40b@one:1,two/name?db=2", "redis+sentinel://:a%40b@one:1,two/name?db=2"),
        (
            "redis+sentinel://one/name/?password=x&sentinel_password=y",
            "redis+sentinel://:x@one/name?sentinel_password=y&db=0",
        ),
        ("rediss+sentinel://one/name?ssl_ca_certs=/ca", "rediss+sentinel://one/name?db=0&ssl_ca_certs=%2Fca"),
        ("redis+cluster://user:x@one:1,[::1]:2", "redis+cluster://user:x@one:1,[::1]:2/"),
        ("rediss+cluster://one/?ssl_ca_certs=/ca", "rediss+cluster://one/?ssl_ca_certs=%2Fca"),
    ],
)
def test_every_client_is_given_the_same_form_of_a_redis_url(given: str, meant: str) -> None:
    assert redis_url(given) == meant
    assert redis_url(meant) == meant


def test_inbox_and_broker_are_one_redis_unless_they_are_named() -> None:
    one, two = "redis://one:1/0", "redis://two:2/0"
    both = load(WorkerSettings, GIVEN | {"REDIS_URL": one})
    assert (both.inbox_url, both.broker_url) == (one, one)
    apart = load(WorkerSettings, GIVEN | {"REDIS_URL": one, "BROKER_URL": two})
    assert (apart.inbox_url, apart.broker_url) == (one, two)
    named = load(WorkerSettings, GIVEN | {"REDIS_URL": "", "INBOX_URL": two, "BROKER_URL": one})
    assert (named.inbox_url, named.broker_url) == (two, one)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"REDIS_URL": "", "INBOX_URL": "redis://one"}, "REDIS_URL is not set"),
        ({"REDIS_URL": "redis+cluster://one"}, "BROKER_URL is not set: REDIS_URL is a Redis Cluster"),
        ({"INBOX_URL": "redis+cluster://one"}, "REDIS_PREFIX is wrong: in a Redis Cluster"),
        ({"INBOX_URL": "redis+cluster://one", "REDIS_PREFIX": "webhooks{}:"}, "REDIS_PREFIX is wrong"),
    ],
)
def test_a_redis_that_a_part_cannot_use_is_refused_in_one_line(given: dict[str, str], line: str) -> None:
    with pytest.raises(SettingError) as caught:
        load(IngressSettings, GIVEN | given)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_a_prefix_with_a_hash_tag_may_be_in_a_cluster() -> None:
    given = {"INBOX_URL": "redis+cluster://one", "REDIS_PREFIX": "{webhooks}:"}
    assert load(IngressSettings, GIVEN | given).inbox_url == "redis+cluster://one/"


def test_celery_and_flower_are_given_sentinels_as_they_know_them() -> None:
    url = redis_url("redis+sentinel://:x@one:1,two:2/name?db=3&sentinel_password=y")
    assert broker_url(url) == "sentinel://:x@one:1/3;sentinel://:x@two:2/3"
    options = broker_options(url, "webhooks:")
    assert (options["master_name"], options["sentinel_kwargs"]["password"]) == ("name", "y")
    assert "ssl" not in options["sentinel_kwargs"]
    assert broker_tls(url) == {}


def test_celery_and_flower_trust_what_the_url_of_sentinels_says() -> None:
    url = redis_url("rediss+sentinel://one:1/name?ssl_ca_certs=/ca&ssl_check_hostname=no")
    assert broker_url(url) == "sentinel://one:1/0"
    tls = {"ssl_cert_reqs": "required", "ssl_ca_certs": "/ca", "ssl_check_hostname": False}
    assert broker_tls(url) == tls
    options = broker_options(url, "webhooks:")
    assert options["sentinel_kwargs"].items() >= {"ssl": True, **tls}.items()
