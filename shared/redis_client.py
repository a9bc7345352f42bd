"""Clients of the Redis that a URL names: one server, or the primary that Sentinels or a cluster name at the moment.

Every new connection to Sentinels or a cluster asks first who the primary is, so after a failover it is enough to
connect again. All our names in a cluster are in one slot (their prefix has a hash tag), so one server has them all.
"""

from asyncio import to_thread
from contextlib import suppress
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from redis import Redis, asyncio
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection
from redis.crc import key_slot
from redis.exceptions import ConnectionError, RedisError  # noqa: A004 - redis-py's own name
from redis.retry import Retry

from shared.redis_url import SENTINEL_OPTIONS

ASK_SECONDS: Final = 0.25
"""In which a Sentinel or a node must say who the primary is; then the next one is asked."""


class Primary:
    """The server that takes writes, as those say who know it.

    Attributes:
        url: of that server, but for host and port; never `rediss:`, for which redis-py takes no class of ours.
        is_tls: whether that server speaks TLS, with the URL's options.
    """

    def __init__(self, url: str, prefix: str) -> None:
        """Take a URL of Sentinels or of a cluster, and the prefix of our names."""
        parts = urlsplit(url)
        scheme, _, kind = parts.scheme.partition("+")
        credentials, at, hosts = parts.netloc.rpartition("@")
        query = dict(parse_qsl(parts.query))
        asked = credentials + at
        if kind == "sentinel":
            user, password = (quote(query.pop(name, ""), safe="") for name in SENTINEL_OPTIONS)
            asked = f"{user}:{password}@" if user or password else ""
        database, options = query.pop("db", "0"), urlencode(query)
        self.url = f"redis://{credentials}{at}primary/{database}?{options}"
        self.is_tls = scheme == "rediss"
        port = 26379 if kind == "sentinel" else 6379
        places = [place if ":" in place.rpartition("]")[2] else f"{place}:{port}" for place in hosts.split(",")]
        self._urls = [f"{scheme}://{asked}{place}/0?{options}" for place in places]
        self._asked = ", ".join(places)
        self._master = parts.path.strip("/")
        self._slot = key_slot(prefix.encode())

    def find(self) -> tuple[str, int]:
        """Return host and port.

        Raises:
            redis.ConnectionError: nobody knows.
        """
        for url in self._urls:
            with (
                suppress(RedisError, OSError),
                Redis.from_url(
                    url,
                    retry=Retry(NoBackoff(), 0),
                    socket_timeout=ASK_SECONDS,
                    socket_connect_timeout=ASK_SECONDS,
                    decode_responses=True,
                ) as client,
            ):
                found = self._ask_sentinel(client) if self._master else self._ask_node(client)
                if found:
                    self._urls = [url, *(it for it in self._urls if it != url)]  # who is away is not asked first again
                    return found
        raise ConnectionError(f"none of {self._asked} says which Redis is the primary")

    def _ask_sentinel(self, client: Redis) -> tuple[str, int] | None:
        found: Any = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._master)  # type: ignore[no-untyped-call]
        return (found[0], int(found[1])) if found else None

    def _ask_node(self, client: Redis) -> tuple[str, int] | None:
        ranges: Any = client.execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
        for first, last, (host, port, *_), *_ in ranges:
            if first <= self._slot <= last:
                return host or client.connection_pool.connection_kwargs["host"], int(port)
        return None


class _PrimaryConnection(Connection):
    """A connection to whoever is the primary when it is made."""

    def __init__(self, *, primary: Primary, **kwargs: Any) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        self._primary = primary

    def _connect(self) -> Any:
        self.host, self.port = self._primary.find()
        return super()._connect()  # type: ignore[no-untyped-call]


class _PrimaryTlsConnection(_PrimaryConnection, SSLConnection):
    """The same over TLS."""


class _AsyncPrimaryConnection(asyncio.connection.Connection):
    """The same for asyncio."""

    def __init__(self, *, primary: Primary, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._primary = primary

    async def _connect(self) -> None:
        self.host, self.port = await to_thread(self._primary.find)
        await super()._connect()  # type: ignore[no-untyped-call]


class _AsyncPrimaryTlsConnection(_AsyncPrimaryConnection, asyncio.connection.SSLConnection):
    """The same for asyncio, over TLS."""


def open_client(url: str, *, seconds: float, prefix: str = "") -> Redis:
    """Return a client, which connects at first use.

    Args:
        url: as `shared.redis_url` returns it.
        seconds: in which a connection, and each reply, must come.
        prefix: of our names; needed for a cluster only.
    """
    url, options = _follow_primary(url, prefix, _PrimaryConnection, _PrimaryTlsConnection)
    return Redis.from_url(url, socket_timeout=seconds, socket_connect_timeout=seconds, **options)


def make_async_pool(url: str, *, prefix: str, **options: Any) -> asyncio.ConnectionPool:
    """Return a pool for asyncio with these options of redis-py; it connects at first use."""
    url, more = _follow_primary(url, prefix, _AsyncPrimaryConnection, _AsyncPrimaryTlsConnection)
    return asyncio.ConnectionPool.from_url(url, **options, **more)


def _follow_primary(url: str, prefix: str, plain: type[Any], tls: type[Any]) -> tuple[str, dict[str, Any]]:
    """Return the URL for redis-py, and the options with which every new connection finds the primary."""
    if "+" not in url.partition("://")[0]:
        return url, {}  # the URL itself names it
    primary = Primary(url, prefix)
    return primary.url, {"primary": primary, "connection_class": tls if primary.is_tls else plain}
