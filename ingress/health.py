"""`/livez`: the process runs its loop. `/readyz`: Redis answers, and a registry is loaded that can be read.

A full Redis does not make the ingress unready: taking it out of a load balancer would turn 503 with `Retry-After`
into an error of the balancer's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from ingress.endpoints import Endpoints
    from ingress.watch import Watch


def routes(*, endpoints: Endpoints, watch: Watch) -> list[Route]:
    """Return the two routes."""

    async def livez(_: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(_: Request) -> Response:
        reasons = []
        if not watch.redis_answers:
            reasons.append("redis_away")
        if endpoints.version is None:
            reasons.append("no_registry")
        if endpoints.opens_nothing:
            reasons.append("wrong_secrets_key")
        if reasons:
            return JSONResponse({"status": "not_ready", "reasons": reasons}, status_code=503)
        return JSONResponse({"status": "ready", "registry_version": endpoints.version})

    return [Route("/livez", livez), Route("/readyz", readyz)]
