"""Floor of the ingress: a Starlette application that verifies the signature, and nothing else."""

from __future__ import annotations

import hmac
import uuid
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.benchmarks.bodies import SECRET

if TYPE_CHECKING:
    from starlette.requests import Request


async def receive(request: Request) -> JSONResponse:
    """Verify one request."""
    body = await request.body()
    expected = "sha256=" + hmac.digest(SECRET, body, "sha256").hex()
    if not hmac.compare_digest(expected, request.headers.get("x-webhook-signature", "")):
        return JSONResponse({"code": "invalid_signature"}, 401)
    return JSONResponse({"id": str(uuid.uuid4())})


app = Starlette(routes=[Route("/webhooks/{provider}/{tenant}", receive, methods=["POST"])])
