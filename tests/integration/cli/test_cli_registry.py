"""`pipeline tenants`, `endpoints`, `secrets` and `keygen`, as processes."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from cryptography.fernet import Fernet

from shared import registry
from tests.launching import free_port
from tests.names import NAMES
from workers.live_workers import LiveWorker, say_live

if TYPE_CHECKING:
    import redis

    from tests.integration.cli.conftest import Pipeline
    from workers.store.connect import Connection


def published(client: redis.Redis, tenant: str = "acme") -> registry.Endpoint | None:
    field = registry.field_of("moveris", tenant)
    value = client.hget(NAMES.registry, field.decode())
    return None if value is None else registry.decode(field, value)  # type: ignore[arg-type]  # no decoding here


def test_an_endpoint_is_added_with_a_secret_from_standard_input_and_published(
    pipeline: Pipeline, redis_client: redis.Redis
) -> None:
    pipeline("tenants", "add", "acme")
    added = pipeline(
        *("endpoints", "add", "acme", "--provider", "moveris", "--label", "mixed-30-v2", "--secret-stdin"),
        stdin=b"  whsec_shown-once\r\n",
    )
    assert "/webhooks/moveris/acme" in added.text
    assert "whsec" not in added.text + added.err
    endpoint = published(redis_client)
    assert endpoint is not None
    (secret,) = endpoint.secrets
    cipher = registry.Cipher([pipeline.environ["SECRETS_KEY"]])
    assert (secret.label, cipher.decrypt(secret)) == ("mixed-30-v2", b"whsec_shown-once")
    (row,) = pipeline.json("endpoints", "list", "--tenant", "acme")
    assert (row["path"], row["labels"], row["enabled"]) == ("/webhooks/moveris/acme", ["mixed-30-v2"], True)
    assert "mixed-30-v2" in pipeline("endpoints", "list").text


def test_without_standard_input_the_secret_is_asked_for_and_not_shown(pipeline: Pipeline) -> None:
    pipeline("tenants", "add", "acme")
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", "endpoints", "add", "acme", "--provider", "moveris", "--label", "v1"],
        stdin=child,
        stdout=child,
        stderr=child,
        env=pipeline.environ,
        cwd=pipeline.folder,
        start_new_session=True,
    )
    os.close(child)
    screen = b""
    while not screen.endswith(b": "):  # what is typed before is thrown away, lest it be shown
        screen += os.read(parent, 1000)
    os.write(parent, b"whsec_typed\n")
    try:
        while chunk := os.read(parent, 1000):
            screen += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    assert process.wait(30) == 0, screen
    os.close(parent)
    assert b"/webhooks/moveris/acme" in screen
    assert b"whsec_typed" not in screen


def test_a_secret_is_rotated_without_a_gap(acme: Pipeline, redis_client: redis.Redis) -> None:
    acme("secrets", "add", "acme", "--label", "v2", "--secret-stdin", stdin=b"second")
    endpoint = published(redis_client)
    assert endpoint is not None
    assert [secret.label for secret in endpoint.secrets] == ["v1", "v2"]
    acme("secrets", "expire", "acme", "v1", "--in", "24h")
    assert [row["may_sign"] for row in acme.json("secrets", "list", "acme")] == [True, True]
    acme("secrets", "expire", "acme", "v1")
    listed = acme("secrets", "list", "acme", "--json")
    assert [row["may_sign"] for row in listed.rows] == [False, True]
    assert "ciphertext" not in listed.text


def test_the_last_secret_expires_only_if_that_is_asked_for(acme: Pipeline, redis_client: redis.Redis) -> None:
    for when in ((), ("--in", "24h"), ("--at", "2026-01-01")):
        refused = acme("secrets", "expire", "acme", "v1", *when, status=1)
        assert "nothing was changed: no other secret of acme's endpoint of moveris may sign from" in refused.err
        assert len(refused.err.splitlines()) == 1
        assert [row["expires_at"] for row in acme.json("secrets", "list", "acme")] == [None]
    acme("secrets", "add", "acme", "--label", "v2", "--secret-stdin", stdin=b"second")
    acme("secrets", "expire", "acme", "v1", "--in", "1h")
    for when in ((), ("--in", "30m"), ("--in", "2h")):  # v1 may sign for an hour, and then?
        assert "nothing was changed" in acme("secrets", "expire", "acme", "v2", *when, status=1).err
    acme("secrets", "expire", "acme", "v2", "--in", "2h", "--even-the-last")
    acme("secrets", "expire", "acme", "v2", "--in", "3h")
    acme("secrets", "expire", "acme", "v1")  # v2 outlives it
    acme("secrets", "expire", "acme", "v2", status=1)
    acme("secrets", "expire", "acme", "v2", "--even-the-last")
    acme("secrets", "expire", "acme", "v2", "--at", "2026-01-01")  # it changes nothing for whoever sends
    endpoint = published(redis_client)
    assert endpoint is not None
    assert all(secret.expires_at is not None for secret in endpoint.secrets)


@pytest.mark.parametrize("around", ["\ufeff", "\u00a0", "\u200b", "\u200b \u2060\r\n"])
def test_what_nobody_sees_around_a_secret_is_left_out(acme: Pipeline, redis_client: redis.Redis, around: str) -> None:
    given = f"{around}whsec_shown-once{around}".encode()
    acme("secrets", "add", "acme", "--label", "pasted", "--secret-stdin", stdin=given)
    endpoint = published(redis_client)
    assert endpoint is not None
    cipher = registry.Cipher([acme.environ["SECRETS_KEY"]])
    assert cipher.decrypt(endpoint.secrets[-1]) == b"whsec_shown-once"


def test_a_secret_that_no_key_opens_is_marked_in_the_list(acme: Pipeline) -> None:
    other = Fernet.generate_key().decode()
    acme("tenants", "add", "beta")
    acme(
        *("endpoints", "add", "beta", "--provider", "moveris", "--label", "b1", "--secret-stdin"),
        stdin=b"b",
        SECRETS_KEY=other,
    )
    rows = {row["tenant"]: row["unreadable"] for row in acme.json("endpoints", "list")}
    assert rows == {"acme": [], "beta": ["b1"]}
    table = acme("endpoints", "list").text
    assert "b1 (no key of SECRETS_KEY opens it: 503)" in table
    assert "v1 (no key" not in table
    both = f"{acme.environ['SECRETS_KEY']},{other}"
    assert "no key" not in acme("endpoints", "list", SECRETS_KEY=both).text
    without = acme("endpoints", "list", "--json", SECRETS_KEY="")
    assert [row["unreadable"] for row in without.rows] == [None, None]


def test_an_endpoint_is_disabled_and_enabled(acme: Pipeline, redis_client: redis.Redis) -> None:
    for command, enabled in (("disable", False), ("enable", True)):
        acme("endpoints", command, "acme", "--provider", "moveris")
        endpoint = published(redis_client)
        assert endpoint is not None
        assert endpoint.enabled is enabled


def test_tenants_are_listed_limited_paused_and_resumed(pipeline: Pipeline) -> None:
    assert pipeline.json("tenants", "add", "acme", "--max-in-flight", "3") == [{"tenant": "acme", "max_in_flight": 3}]
    pipeline("tenants", "pause", "acme")
    pipeline("tenants", "limit", "acme", "--max-in-flight", "5")
    (row,) = pipeline.json("tenants", "list")
    assert (row["tenant"], row["max_in_flight"], row["paused_at"] is None) == ("acme", 5, False)
    assert pipeline("tenants", "resume", "acme").text == "resumed acme\n"
    assert pipeline.json("tenants", "list")[0]["paused_at"] is None


def test_lists_of_tenants_and_endpoints_go_on_after_the_last_one(pipeline: Pipeline, connection: Connection) -> None:
    connection.execute("INSERT INTO tenants (name) SELECT 'acme-' || n FROM generate_series(1, 4) AS n")
    connection.execute("INSERT INTO tenants (name) VALUES ('other')")
    connection.execute(
        "INSERT INTO endpoints (tenant, provider, scheme) SELECT name, provider, '\"moveris\"'"
        " FROM tenants, unnest('{github,moveris}'::text[]) AS provider"
    )
    first = pipeline("tenants", "list", "--prefix", "acme-", "--limit", "3", "--json")
    assert [row["tenant"] for row in first.rows] == ["acme-1", "acme-2", "acme-3"]
    assert "--after acme-3 goes on" in first.err
    last = pipeline("tenants", "list", "--prefix", "acme-", "--after", "acme-3", "--json")
    assert [row["tenant"] for row in last.rows] == ["acme-4"]
    assert "more" not in last.err
    first = pipeline("endpoints", "list", "--limit", "3", "--json")
    assert "--after acme-2/github goes on" in first.err
    next_ = pipeline("endpoints", "list", "--after", "acme-2/github", "--limit", "1", "--json")
    assert [(row["tenant"], row["provider"]) for row in next_.rows] == [("acme-2", "moveris")]
    rest = pipeline("endpoints", "list", "--after", "acme-4", "--json")
    assert [row["tenant"] for row in rest.rows] == ["other", "other"]


def test_pauses_say_who_why_and_until_when_and_each_is_resumed_by_itself(pipeline: Pipeline) -> None:
    pipeline("tenants", "add", "acme")
    reason = ("--reason", "their API is down")
    pipeline("tenants", "pause", "acme", "--until", "2h", *reason, LOGNAME="alice")
    assert "no handler 'a.run' is announced" in pipeline("handlers", "pause", "a.run", status=1).err
    assert "is over already" in pipeline("tenants", "pause", "acme", "--until", "2020-01-01", status=2).err
    assert "no tenant" in pipeline("tenants", "pause", "nobody", status=1).err
    (shown,) = pipeline.json("tenants", "show", "acme")
    assert [(it["paused_by"], it["pause_reason"]) for it in shown["pauses"]] == [("alice", "their API is down")]
    for told in (pipeline("tenants", "show", "acme").text, pipeline("stats").text, pipeline("tenants", "list").text):
        assert "by alice, until " in told.replace("\n", " ")
    assert pipeline("handlers", "resume", "a.run", "--tenant", "acme").text.startswith("a.run for acme was not paused")
    assert "still paused: acme, since" in pipeline("handlers", "resume", "a.run", "--tenant", "acme").text


def test_a_limit_that_is_not_given_stays_until_it_is_lifted(pipeline: Pipeline) -> None:
    pipeline("tenants", "add", "acme")
    pipeline("tenants", "limit", "acme", "--in-flight", "5")
    (limited,) = pipeline.json("tenants", "limit", "acme", "--weight", "3")
    assert (limited["tenant"], limited["max_in_flight"], limited["weight"]) == ("acme", 5, 3)
    assert pipeline.json("tenants", "limit", "acme", "--weight", "2", "--lift")[0]["max_in_flight"] is None
    assert pipeline.json("tenants", "limit", "acme")[0]["weight"] == 1


def test_what_a_tenant_may_send_is_limited_published_and_lifted(pipeline: Pipeline, redis_client: redis.Redis) -> None:
    pipeline("tenants", "add", "acme")
    pipeline(*("endpoints", "add", "acme", "--provider", "moveris", "--label", "v1", "--secret-stdin"), stdin=b"secret")
    said = pipeline("tenants", "limit", "acme", "--rate", "6000/m", "--burst", "1000").text
    assert "at most 100 a second, 1,000 at once" in said
    pipeline("tenants", "limit", "acme", "--inbox", "100MB", "--in-flight", "20")
    endpoint = published(redis_client)
    assert endpoint is not None
    assert endpoint.limits == registry.Limits(rate=100, burst=1000, inbox_bytes=100_000_000)
    assert "100 MB of the inbox" in pipeline("tenants", "show", "acme").text
    lifted = pipeline.json("tenants", "limit", "acme", "--rate", "1/s", "--lift")
    assert lifted == [
        {"tenant": "acme", "max_in_flight": None, "weight": 1, "rate": 1.0, "burst": None, "inbox_bytes": None}
    ]
    for option, value in (("--rate", "0/s"), ("--burst", "0"), ("--inbox", "many")):
        refused = pipeline("tenants", "limit", "acme", option, value, status=2)
        assert option in refused.err
    assert "globex" in pipeline("tenants", "limit", "globex", "--burst", "5", status=1).err


def test_a_tenant_is_shown_with_what_its_deliveries_wait_for(
    pipeline: Pipeline, connection: Connection, redis_client: redis.Redis
) -> None:
    pipeline("tenants", "add", "acme", "--in-flight", "2")
    insert = (
        "INSERT INTO deliveries (event_id, handler, tenant, due_at)"
        " SELECT gen_random_uuid(), 'acme.grant', 'acme', now() - interval '60 s' FROM generate_series(1, 5)"
    )
    assert pipeline.json("tenants", "show", "acme")[0]["waits_for"] is None
    connection.execute(insert)
    (row,) = pipeline.json("tenants", "show", "acme")
    assert (row["pending"], row["waits_for"]) == (5, "a worker that runs acme.grant")
    worker = LiveWorker(id="a", name="handlers@one", queues=("handlers",), slots=1, code_version="1")
    say_live(redis_client, NAMES, worker, [("acme.grant", "1")])
    (row,) = pipeline.json("tenants", "show", "acme")
    assert (row["pending"], row["waits_for"]) == (5, "its turn at a free slot")
    assert 60 <= row["oldest_seconds"] < 120
    pipeline("handlers", "limit", "acme.grant", "--rate", "1/m")
    assert pipeline.json("tenants", "show", "acme")[0]["waits_for"] == "the limit of acme.grant, or its turn"
    connection.execute(
        "UPDATE deliveries SET state = 'queued', ready = false, lease_until = now() WHERE event_id IN"
        " (SELECT event_id FROM deliveries LIMIT 2)"
    )
    assert pipeline.json("tenants", "show", "acme")[0]["waits_for"] == "its own limit of 2 in flight"
    pipeline("tenants", "pause", "acme")
    said = pipeline("tenants", "show", "acme").text
    assert "at most 2 in flight at once, 1 in each round of turns" in said
    assert "waits for  its pause, since " in said
    assert pipeline.json("stats")[1]["waits_for"].startswith("its pause, since ")
    assert "no tenant 'nobody'" in pipeline("tenants", "show", "nobody", status=1).err


def test_handlers_are_limited_for_all_tenants_and_for_one(pipeline: Pipeline) -> None:
    pipeline("handlers", "limit", "acme.grant", "--in-flight", "5")
    said = pipeline("handlers", "limit", "acme.grant", "--rate", "600/m", "--tenant", "acme").text
    assert "acme.grant, acme: at most 10 a second" in said
    assert pipeline.json("handlers", "limits") == [
        {"handler": "acme.grant", "tenant": "*", "max_in_flight": 5, "rate": None},
        {"handler": "acme.grant", "tenant": "acme", "max_in_flight": None, "rate": 10.0},
    ]
    assert "no limit" in pipeline("handlers", "limit", "acme.grant").text
    assert [row["tenant"] for row in pipeline.json("handlers", "limits")] == ["acme"]
    refused = pipeline("handlers", "limit", "acme.grant", "--rate", "often", status=2)
    assert "'often' is no rate" in " ".join(refused.err.split())


def test_what_a_person_got_wrong_is_one_line_that_says_what_to_do(acme: Pipeline) -> None:
    add = ("endpoints", "add", "acme", "--label", "v9", "--secret-stdin", "--provider")
    for arguments, part in (
        (("tenants", "add", "Acme Inc"), "lower-case"),
        (("tenants", "add", "acme"), "already"),
        ((*add, "moveris"), "pipeline secrets add acme"),
        ((*add, "unheard-of"), "--scheme"),
        ((*add, "unheard-of", "--scheme", "nope"), "nope"),
        (("endpoints", "disable", "nobody", "--provider", "moveris"), "pipeline endpoints add nobody"),
        (("secrets", "expire", "acme", "v7"), "pipeline secrets list acme"),
        (("secrets", "add", "acme", "--label", "v2"), "--secret-stdin"),
    ):
        refused = acme(*arguments, stdin=b"secret", status=1)
        assert part in refused.err, refused.err
        assert len(refused.err.splitlines()) == 1, refused.err
    standard = ("--provider", "standard-webhooks", "--label", "v1", "--secret-stdin")
    unusable = acme("endpoints", "add", "acme", *standard, stdin=b"whsec_no*base64", status=1)
    assert "the secret is not base64 (character 3 of 9 is something else)" in unusable.err
    assert "if the provider shows it exactly so" in unusable.err
    assert "no*base64" not in unusable.err
    empty = acme("secrets", "add", "acme", "--label", "v2", "--secret-stdin", stdin=b"\n", status=1)
    assert "empty" in empty.err
    assert "no duration" in acme("secrets", "expire", "acme", "v1", "--in", "soon", status=2).err


def test_a_change_is_kept_when_redis_is_away_and_the_sweeper_is_named(acme: Pipeline) -> None:
    away = f"redis://127.0.0.1:{free_port()}/0"
    started = time.monotonic()
    changed = acme("endpoints", "disable", "acme", "--provider", "moveris", REDIS_URL=away)
    assert "sweeper" in changed.err
    assert time.monotonic() - started < 15
    assert acme.json("endpoints", "list")[0]["enabled"] is False


def test_a_new_key_fits_secrets_key(pipeline: Pipeline) -> None:
    Fernet(pipeline("keygen").text.strip())


def test_secrets_are_encrypted_anew_so_that_an_old_key_can_go(acme: Pipeline, redis_client: redis.Redis) -> None:
    new, old = Fernet.generate_key().decode(), acme.environ["SECRETS_KEY"]
    assert "every secret is encrypted with the first key" in acme("secrets", "check").text
    needed = acme("secrets", "check", "--json", status=1, SECRETS_KEY=f"{new},{old}").rows
    assert needed == [{"tenant": "acme", "provider": "moveris", "label": "v1", "key": 2}]

    done = acme("secrets", "reencrypt", SECRETS_KEY=f"{new},{old}").text
    assert done == "encrypted 1 secrets with the first key; SECRETS_KEY needs its first key only\n"
    assert acme("secrets", "check", "--json", SECRETS_KEY=new).rows == []
    endpoint = published(redis_client)
    assert endpoint is not None
    assert [registry.Cipher([new]).decrypt(secret) for secret in endpoint.secrets] == [b"first"]
    again = acme("secrets", "reencrypt", "--json", SECRETS_KEY=f"{new},{old}").rows
    assert again == [{"reencrypted": 0, "left": 0}]


def test_a_secret_that_no_key_opens_is_named_and_left_as_it_is(acme: Pipeline) -> None:
    acme(
        "secrets",
        "add",
        "acme",
        "--label",
        "v2",
        "--secret-stdin",
        stdin=b"x",
        SECRETS_KEY=Fernet.generate_key().decode(),
    )
    assert "v2" in acme("secrets", "check", status=1).text
    both = f"{Fernet.generate_key().decode()},{acme.environ['SECRETS_KEY']}"
    refused = acme("secrets", "reencrypt", status=1, SECRETS_KEY=both)
    assert refused.text.startswith("encrypted 1 secrets with the first key; see `pipeline secrets check`")
    assert "no key of SECRETS_KEY opens them: acme's moveris secret v2" in refused.err


def test_changes_are_in_the_audit_with_the_user_of_the_system(pipeline: Pipeline) -> None:
    pipeline("tenants", "add", "acme", LOGNAME="alice")
    pipeline("tenants", "limit", "acme", "--in-flight", "3", LOGNAME="bob")
    changed, added = pipeline.json("audit", "list", "acme")
    assert [(it["who"], it["what"]) for it in (added, changed)] == [
        ("alice", "tenants added"),
        ("bob", "tenants changed"),
    ]
    assert '{"max_in_flight": 3}' in pipeline("audit", "list", "--who", "bob").text
