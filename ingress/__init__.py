"""One request, four steps: read the body, find the endpoint, verify, append."""

from webhook_pipeline import require_packages

require_packages("shared")
