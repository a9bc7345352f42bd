"""What the ingress reads from the environment; see `shared.settings`."""

from dataclasses import dataclass
from typing import Final

from shared.durability import DURABILITY_ABOUT, Durability, durability
from shared.settings import SharedSettings, address, fernet_keys, integer, port, port_or_none, seconds, setting, share

HIGH_WATER_ABOUT: Final = "share of Redis' maxmemory beyond which events are answered 503"


def under_a_second(text: str) -> float:
    """Parse a number of seconds below one: senders are answered within a second, whatever Redis does."""
    value = seconds(text)
    if value >= 1:
        raise ValueError(f"it must be below 1 second, not {text!r}")
    return value


@dataclass(frozen=True, kw_only=True)
class IngressSettings(SharedSettings):
    """Settings of one ingress process."""

    secrets_key: tuple[str, ...] = setting(
        "SECRETS_KEY",
        None,
        fernet_keys,
        "Fernet key(s) that encrypt the endpoints' secrets; comma-separated, the first encrypts, all decrypt",
    )
    host: str = setting("INGRESS_HOST", "127.0.0.1", address, "address to listen on; 0.0.0.0 or :: for all")
    port: int = setting("INGRESS_PORT", "8000", port, "TCP port to listen on")
    workers: int = setting("INGRESS_WORKERS", "1", integer(at_least=1), "ingress processes behind the one port")
    metrics_port: int = setting(
        "INGRESS_METRICS_PORT",
        "0",
        port_or_none,
        "port of /metrics, 0: none; with several workers each takes the next free one from here up",
    )
    metrics_host: str = setting(
        "INGRESS_METRICS_HOST", "127.0.0.1", address, "address on which /metrics is served; 0.0.0.0 or :: for all"
    )
    max_body_bytes: int = setting("INGRESS_MAX_BODY_BYTES", "1048576", integer(at_least=1), "largest body, bytes")
    body_timeout: float = setting(
        "INGRESS_BODY_TIMEOUT", "10", seconds, "time that a client has for its headers, and again for its body, seconds"
    )
    keep_alive: float = setting(
        "INGRESS_KEEP_ALIVE",
        "75",
        seconds,
        "time that an idle connection stays open, seconds; longer than in the proxy (nginx: 60): that closes first",
    )
    connections: int = setting(
        "INGRESS_CONNECTIONS", "1000", integer(at_least=1), "open connections a worker serves; more are answered 503"
    )
    waiting_bytes: int = setting(
        "INGRESS_WAITING_BYTES",
        "33554432",
        integer(at_least=1),
        "bytes that may wait for Redis in one worker; beyond it 503",
    )
    bodies_bytes: int = setting(
        "INGRESS_BODIES_BYTES",
        "67108864",
        integer(at_least=1_048_576),
        "bytes that unfinished bodies may hold in one worker, a quarter kept for those up to 64 KiB; beyond it 503",
    )
    inbox_timeout: float = setting(
        "INBOX_TIMEOUT", "0.8", under_a_second, "time in which Redis must confirm an event, seconds, below 1"
    )
    wait_replicas: int = setting(
        "INBOX_WAIT_REPLICAS",
        "0",
        integer(),
        "replicas that must have received an event before it is acknowledged; too few within INBOX_TIMEOUT: 503",
    )
    inbox_durability: Durability = setting("INBOX_DURABILITY", "always", durability, DURABILITY_ABOUT)
    inbox_high_water: float = setting("INBOX_HIGH_WATER", "0.75", share, HIGH_WATER_ABOUT)
