"""The URL of Redis as Celery reads it.

Guarantees: Celery reaches the Redis that every other part reaches by the same URL, and trusts the same certificates:
kombu 5.7 knows no `unix://`, and over `rediss://` trusts everybody unless the URL asks for a certificate. Refuses
nothing.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, quote, urlencode, urlsplit


def broker_url(redis_url: str) -> str:
    """Return the URL for Celery."""
    parts = urlsplit(redis_url)
    query = dict(parse_qsl(parts.query))
    if parts.scheme == "rediss":
        return parts._replace(query=urlencode({"ssl_cert_reqs": "required"} | query)).geturl()
    if parts.scheme == "unix":
        user = parts.username or quote(query.get("username", ""), safe="")
        password = parts.password or quote(query.get("password", ""), safe="")
        return f"redis+socket://{user}:{password}@{parts.path}?virtual_host={query.get('db', '0')}"
    return redis_url
