"""What Flower's launcher reads from the environment; see `shared.settings`."""

from __future__ import annotations

from dataclasses import dataclass

from shared.settings import address, integer, port, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowerSettings:
    """Settings of Flower."""

    address: str = setting("FLOWER_ADDRESS", "127.0.0.1", address, "address on which Flower listens")
    port: int = setting("FLOWER_PORT", "5555", port, "port on which Flower listens")
    user: str = setting("FLOWER_USER", "", str, "Flower's user; required beyond the loopback")
    password: str = setting("FLOWER_PASSWORD", "", str, "Flower's password; required beyond the loopback")
    max_tasks: int = setting("FLOWER_MAX_TASKS", "10000", integer(at_least=1), "tasks that Flower keeps in memory")
