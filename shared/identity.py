"""Whose Redis it is: the database and environment that its events go to, kept under `Names.identity`.

The first drain or publisher that finds no identity leaves its own. From then on those of another database or
environment are refused before they take or publish anything, and so is an exporter, which leaves none; `pipeline adopt`
makes Redis this database's own.
"""

from typing import Any, Final

from shared.wire import Names

REFUSE_OTHERS: Final = """
local function refuse_others(key, identity)
  local held = redis.call('GET', key)
  if held and held ~= identity then return redis.error_reply('FOREIGN ' .. held) end
  if not held then redis.pcall('SET', key, identity) end
  return false
end
"""
"""A function of Lua for scripts: returns the error that ends the script, or false. A full Redis, which takes no
identity, is drained all the same."""
_CLAIM: Final = REFUSE_OTHERS + "return refuse_others(KEYS[1], ARGV[1])"
_FOREIGN: Final = "FOREIGN "


class ForeignRedisError(Exception):
    """This Redis belongs to another database or environment; the text is one line that says what to do."""

    def __init__(self, held: str, own: str) -> None:
        super().__init__(
            f"Redis belongs to {held}, and this is {own}: give each environment a REDIS_URL or REDIS_PREFIX of its "
            "own, or run `pipeline adopt` if the database was moved or restored"
        )


def claim(client: Any, names: Names, identity: str) -> None:
    """Make sure that Redis belongs to this database and environment.

    Args:
        client: of Redis.
        names: in Redis.
        identity: see `workers.store.identity`.

    Raises:
        ForeignRedisError: it belongs to another one.
        redis.RedisError: it is away.
    """
    try:
        client.eval(_CLAIM, 1, names.identity, identity)
    except Exception as error:
        raise_if_foreign(error, identity)
        raise


def require_own(held: bytes | None, identity: str) -> None:
    """Check an identity that Redis holds, of processes that only read and leave none.

    Args:
        held: under `Names.identity`; None if nobody has left one yet.
        identity: of this database and environment.

    Raises:
        ForeignRedisError: Redis belongs to another one.
    """
    if held is not None and held != identity.encode():
        raise ForeignRedisError(held.decode("utf-8", "replace"), identity)


def raise_if_foreign(error: Exception, identity: str) -> None:
    """Raise `ForeignRedisError` if a script was ended by `REFUSE_OTHERS`."""
    if str(error).startswith(_FOREIGN):
        raise ForeignRedisError(str(error).removeprefix(_FOREIGN), identity) from None
