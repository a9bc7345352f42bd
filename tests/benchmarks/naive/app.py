"""The receiver: FastAPI verifies and calls `delay()`."""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated

from fastapi import FastAPI, Header, HTTPException, Request

from tests.benchmarks.bodies import SECRET
from tests.benchmarks.naive.tasks import store_event

app = FastAPI()


@app.post("/webhooks/{provider}/{tenant}")
async def receive(
    provider: str, tenant: str, request: Request, x_webhook_signature: Annotated[str, Header()]
) -> dict[str, str]:
    """Verify one request and hand it to Celery."""
    body = await request.body()
    expected = "sha256=" + hmac.new(SECRET, body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected, x_webhook_signature):
        raise HTTPException(status_code=401, detail="invalid signature")
    task = store_event.delay(provider, tenant, body.decode())
    return {"id": task.id}
