"""One request, four steps: find the endpoint, read the body, verify, append.

In reading order: `webhooks` (the four steps), `endpoints`, `body`, `schemes` and `inbox` (one each), `errors` (every
answer but 200), `refusal_log`, `limits` (what a tenant may send), `redis_connection`, `doorbell` (where the broker is
another Redis), `watch` (full, durable, a newer registry?), `asgi` (the application), `connections` (limits that uvicorn
lacks), `metrics`, `settings`, `__main__`.
"""

from webhook_pipeline import require_packages

require_packages("shared")
