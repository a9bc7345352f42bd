"""What Flower's launcher reads from the environment; see `shared.settings`."""

from dataclasses import dataclass
from typing import Final

from shared.settings import LogSettings, address, integer, port, setting

FLOWER_PREFIX_ABOUT: Final = "path below which Flower serves, behind a proxy that passes it on; none by default"


def url_prefix(text: str) -> str:
    """Parse a path such as /flower; returned with no slash around it."""
    if not text.isascii() or not text.isprintable() or set(text) & set(" ?#"):
        raise ValueError(f"a path such as /flower is expected, not {text!r}")
    return text.strip("/")


@dataclass(frozen=True, kw_only=True)
class FlowerSettings(LogSettings):
    """Settings of Flower."""

    address: str = setting("FLOWER_ADDRESS", "127.0.0.1", address, "address on which Flower listens")
    port: int = setting("FLOWER_PORT", "5555", port, "port on which Flower listens")
    user: str = setting("FLOWER_USER", "", str, "Flower's user; required beyond the loopback")
    password: str = setting("FLOWER_PASSWORD", "", str, "Flower's password; required beyond the loopback")
    max_tasks: int = setting("FLOWER_MAX_TASKS", "10000", integer(at_least=1), "tasks that Flower keeps in memory")
    prefix: str = setting("FLOWER_URL_PREFIX", "", url_prefix, FLOWER_PREFIX_ABOUT)
