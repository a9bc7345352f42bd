"""What the guarantees rest on beside the servers: clocks, keys, the published registry, and who runs."""

import time
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Final

import redis

from deploy.doctor.finding import Finding, ok, unknown, wrong
from shared import rights, wire
from shared.identity import ForeignRedisError
from shared.registry import Cipher
from shared.releases import RELEASE
from workers.housekeeping import publishing
from workers.live_workers import Live
from workers.store import server, tenants
from workers.store.catalogue import Registered
from workers.store.connect import Connection
from workers.store.identity import UNTOLD, read_identity

APART_SECONDS: Final = 5.0
"""How far clocks may be apart: providers' signatures and Celery's `expires` bear more."""
QUEUES: Final = (wire.INGEST_QUEUE, wire.HANDLERS_QUEUE, wire.EXPRESS_QUEUE, wire.HOUSEKEEPING_QUEUE)
_UNASKED: Final = "Redis does not tell which workers live"


def clocks(connection: Connection, client: redis.Redis) -> Finding:
    """Compare the clocks of Postgres and Redis with this machine's."""
    before = time.time()
    postgres = server.read_facts(connection).now.timestamp()
    between = time.time()
    seconds, microseconds = client.time()
    after = time.time()
    return compare(
        {"Postgres": postgres - (before + between) / 2, "Redis": seconds + microseconds / 1e6 - (between + after) / 2}
    )


def compare(ahead: dict[str, float]) -> Finding:
    """Judge by how many seconds each clock is ahead of this machine's."""
    spread = {**ahead, "this machine": 0.0}
    first, last = max(spread, key=spread.__getitem__), min(spread, key=spread.__getitem__)
    apart = spread[first] - spread[last]
    if apart > APART_SECONDS:
        found = f"{first} is {apart:.1f} s ahead of {last}"
        return wrong("clocks", f"{found}: signatures are refused and retention is off by it; run NTP on all machines")
    return ok("clocks", f"{apart:.1f} s apart at most")


def identity(connection: Connection, client: redis.Redis, names: wire.Names, environment: str) -> Finding:
    """See that Redis holds events for this database and environment, and for no other."""
    own, held = read_identity(connection, environment), client.get(names.identity)
    if held is None:
        return unknown("identity", f"Redis belongs to nobody yet; the first drain of {own} takes it")
    if held != own.encode():
        return wrong("identity", str(ForeignRedisError(held.decode("utf-8", "replace"), own)))  # type: ignore[union-attr]
    if UNTOLD in own:
        advice = (
            "GRANT EXECUTE ON FUNCTION pg_control_system() to it, or see that PIPELINE_ENVIRONMENT differs elsewhere"
        )
        return unknown("identity", f"{own}: Postgres does not tell its system identifier to this role: {advice}")
    return ok("identity", own)


def redis_rights(client: redis.Redis, commands: Collection[rights.Command], whose: str) -> Finding:
    """See that the user of Redis may run these commands; that each duty's own user may, it says itself.

    Args:
        client: of the inbox.
        commands: see `shared.rights`.
        whose: who runs them, as a sentence has it: "the console does".
    """
    try:
        reply = client.eval(rights.LIST_MISSING, 0, *rights.pack(commands))
    except redis.ResponseError as error:
        if not rights.is_refusal(error):
            raise
        missing: Sequence[str] = ("EVAL",)
    else:
        missing = rights.read_missing(reply)
    if missing:
        return wrong("redis rights", f"the user of REDIS_URL may not run {_listed([*missing])}: {rights.ADVICE}")
    return ok("redis rights", f"the user of REDIS_URL may run all that {whose}")


def keys(connection: Connection, cipher: Cipher | None) -> Finding:
    """See that every secret that may sign can be decrypted."""
    if cipher is None:
        return unknown("keys", "SECRETS_KEY is not set here")
    _, endpoints = tenants.read_registry(connection)
    alive = [(it, secret) for it in endpoints for secret in it.secrets if tenants.is_alive(secret)]
    closed = [
        f"{it.tenant}'s {it.provider} secret {secret.label}" for it, secret in alive if not cipher.can_decrypt(secret)
    ]
    if closed:
        return wrong("keys", f"no key of SECRETS_KEY opens {_listed(closed)}: set the key, or add the secret anew")
    old = sum(cipher.key_of(secret) != 1 for _, secret in alive)
    moved = f", {old} of them with an old key: `pipeline secrets reencrypt`" if old else ""
    return ok("keys", f"SECRETS_KEY opens all {len(alive)} secrets{moved}")


def registry(connection: Connection, client: redis.Redis, names: wire.Names) -> Finding:
    """See that the ingress is told of the endpoints as they are."""
    version, published = tenants.registry_version(connection), publishing.published_version(client, names)
    if published == version:
        return ok("registry", f"published, version {version}")
    found = "nothing is published" if published is None else f"version {published} is published, Postgres has {version}"
    return wrong("registry", f"{found}: a housekeeping worker and beat publish it within seconds; do they run?")


def workers(live: Live | None) -> Finding:
    """See that each queue has a worker."""
    if live is None:
        return unknown("workers", _UNASKED)
    served = {queue for it in live.workers for queue in it.queues}
    if missing := [queue for queue in QUEUES if queue not in served]:
        advice = f"start one: celery -A workers.app worker --queues {','.join(missing)}"
        return wrong("workers", f"no worker serves {', '.join(missing)}: {advice}")
    return ok("workers", f"{len(live.workers)} live, and serve every queue")


def find_releases(live: Live | None, ingresses: Sequence[str] | None) -> Finding:
    """See that all processes are of one release."""
    if live is None or ingresses is None:
        return unknown("releases", "Redis does not tell which processes live")
    counts = Counter(it or "an earlier one" for it in [*ingresses, *(worker.release for worker in live.workers)])
    found = ", ".join(f"{count} of {release}" for release, count in sorted(counts.items()))
    if set(counts) - {RELEASE}:
        advice = "finish the deployment, or take it back; this command is of"
        return wrong("releases", f"the processes are {found}: {advice} {RELEASE}")
    return ok("releases", f"the processes are {found or 'none'}")


def handlers(live: Live | None, registered: Sequence[Registered], waiting: Collection[str]) -> Finding:
    """See that every handler with open deliveries is run by some worker, and that workers agree on all of them."""
    if live is None:
        return unknown("handlers", _UNASKED)
    if nobodys := sorted(set(waiting) - live.handlers):
        advice = "start handler workers whose HANDLERS names its module, or see `pipeline handlers remove` and `rename`"
        return wrong("handlers", f"deliveries of {_listed(nobodys)} wait and no worker runs them: {advice}")
    held = {it.registration.name: it.registration.digest for it in registered if it.renamed_to is None}
    if differing := sorted({name for name, digest in live.registrations if held.get(name) != digest}):
        advice = "restart the workers with the older code or HANDLERS"
        return wrong("handlers", f"workers differ about {_listed(differing)}: {advice}")
    return ok("handlers", f"{len(held)} announced; all that have deliveries are run")


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"  # noqa: PLR2004 - what fits a line
