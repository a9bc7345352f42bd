"""URLs that name a Redis, Sentinels or a cluster, in the one form that every part understands.

redis://  rediss://  unix://                                        one server
redis+sentinel://user:password@host:26379,host:26379/mymaster?db=0  the primary of `mymaster`; rediss+, too
redis+cluster://user:password@host:6379,host:6379                   the primary of our names' slot; rediss+, too
"""

from typing import Final
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

REDIS_OPTIONS: Final = frozenset({"client_name", "health_check_interval", "socket_keepalive"})
"""Options of a Redis URL that redis-py and kombu both know, with numbers and booleans as text."""
REDIS_TLS_OPTIONS: Final = frozenset(
    f"ssl_{name}"
    for name in (
        *("ca_certs", "ca_path", "ca_data", "certfile", "keyfile", "password"),
        *("cert_reqs", "check_hostname", "ciphers"),
    )
)
"""The same, of a `rediss://` URL only."""
REDIS_OWN_OPTIONS: Final = frozenset(
    {"socket_timeout", "socket_connect_timeout", "socket_read_size", "retry_on_timeout", "max_connections"}
)
"""Options that are accepted and left out: timeouts, retries and pools are the pipeline's own."""
_NO: Final = {"0", "f", "false", "n", "no"}


SENTINEL_OPTIONS: Final = ("sentinel_username", "sentinel_password")
"""Options of a URL of Sentinels: the user of the Sentinels themselves."""
SENTINELS: Final = ("redis+sentinel://", "rediss+sentinel://")
CLUSTER: Final = ("redis+cluster://", "rediss+cluster://")


def redis_url(text: str) -> str:
    """Check the URL of a Redis, of Sentinels or of a cluster; return it in the one form that every part understands.

    The database is the URL's path, user and password stand before the host; of `unix://` and Sentinels the
    database stays an option. Options that redis-py knows and kombu does not, or the other way round, are refused: the
    ingress would acknowledge what no worker can reach. The error repeats no part that may hold a password.
    """
    if text.startswith((*SENTINELS, *CLUSTER)):
        return _url_of_several(text)
    if not text.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("a URL such as redis://host:6379/0 is expected")
    return _url_of_one(text)


def broker_url(text: str) -> str:
    """Check the URL of Celery's Redis, which cannot be a cluster."""
    if text.startswith(CLUSTER):
        raise ValueError("Celery cannot use a Redis Cluster: name one Redis, or Sentinels")
    return redis_url(text)


def optional_redis_url(text: str) -> str:
    """Check the URL of a Redis; empty for none."""
    return redis_url(text) if text else ""


def optional_broker_url(text: str) -> str:
    """Check the URL of Celery's Redis; empty for none."""
    return broker_url(text) if text else ""


def _url_of_several(text: str) -> str:
    """Do the same for several hosts: `redis+sentinel://host,host/mymaster`, `redis+cluster://host,host`."""
    parts = _split(text)
    scheme, _, kind = parts.scheme.partition("+")
    credentials, at, hosts = parts.netloc.rpartition("@")
    query, name = dict(parse_qsl(parts.query)), parts.path.strip("/")
    own: dict[str, str] = {it: query.pop(it) for it in SENTINEL_OPTIONS if kind == "sentinel" and it in query}
    if kind == "sentinel" and (not name or "/" in name):
        raise ValueError("a URL such as redis+sentinel://host:26379,host:26379/mymaster?db=0 is expected")
    if kind == "cluster" and (name or "db" in query):
        raise ValueError("a cluster has no databases: a URL such as redis+cluster://host:6379,host:6379 is expected")
    places = [urlsplit(_url_of_one(f"{scheme}://{host}")).netloc for host in hosts.split(",")]
    given = urlsplit(_url_of_one(f"{scheme}://{credentials}{at}{places[0]}?{urlencode(query)}"))
    own |= {"db": given.path.strip("/")} if kind == "sentinel" else {}
    credentials, at, _ = given.netloc.rpartition("@")
    options = urlencode(own | dict(parse_qsl(given.query)))
    return f"{parts.scheme}://{credentials}{at}{','.join(places)}/{name}{'?' if options else ''}{options}"


def _split(text: str) -> SplitResult:
    parts = urlsplit(without_blanks(text))
    if parts.fragment or parts.netloc.count("@") > 1:
        raise ValueError("characters such as # and @ in a password must be escaped (%23, %40)")
    return parts


def _url_of_one(text: str) -> str:
    parts = _split(text)
    is_unix = parts.scheme == "unix"
    if is_unix and not parts.path.strip("/"):
        raise ValueError("a URL such as unix:///run/redis.sock?db=0 is expected")
    query = dict(parse_qsl(parts.query))
    user = unquote(parts.username or "") or query.pop("username", "")
    password = unquote(parts.password or "") or query.pop("password", "")
    database = query.pop("db", "") or ("0" if is_unix else parts.path.strip("/") or "0")
    if not database.isdecimal():
        raise ValueError(f"the database after the host is a number such as 0, not {database!r}")
    options = _redis_options(query, has_tls=parts.scheme == "rediss")
    credentials = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""
    if is_unix:
        options.pop("socket_keepalive", None)  # a socket of the file system has none
        return f"unix://{credentials}{parts.path}?{urlencode({'db': database} | options)}"
    try:
        host, number = parts.hostname or "localhost", parts.port
    except ValueError as error:
        raise ValueError(f"{error}; a URL such as redis://host:6379/0 is expected") from None
    place = (f"[{host}]" if ":" in host else host) + (f":{number}" if number else "")
    tail = f"?{urlencode(options)}" if options else ""
    return f"{parts.scheme}://{credentials}{place}/{int(database)}{tail}"


def _redis_options(query: dict[str, str], *, has_tls: bool) -> dict[str, str]:
    """Return the options that are passed on, in the spelling that both clients read alike."""
    known = REDIS_OPTIONS | (REDIS_TLS_OPTIONS if has_tls else frozenset())
    options: dict[str, str] = {}
    for name, value in query.items():
        if name in REDIS_OWN_OPTIONS:
            continue
        if name not in known:
            hint = "; it needs rediss://" if name in REDIS_TLS_OPTIONS else f"; known are {', '.join(sorted(known))}"
            raise ValueError(f"the option {name!r} is not known to every part of the pipeline{hint}")
        match name:
            case "health_check_interval":
                if not value.isdecimal():
                    raise ValueError(f"a whole number is expected, not {value!r}")
                options[name] = value
            case "socket_keepalive" | "ssl_check_hostname":
                options[name] = "false" if value.lower() in _NO else "true"
            case "ssl_cert_reqs":
                options[name] = value.lower().removeprefix("cert_")
                if options[name] not in {"none", "optional", "required"}:
                    raise ValueError(f"ssl_cert_reqs is none, optional or required, not {value!r}")
            case _:
                options[name] = value
    return options


def without_blanks(url: str) -> str:
    """Return a URL, unless something in it can be in no URL; `urlsplit` would drop a line break without a word."""
    for place, sign in enumerate(url, 1):
        if sign.isspace() or not sign.isprintable():
            raise ValueError(f"character {place} is {sign!r}, which no URL may hold: take it out or escape it")
    return url
