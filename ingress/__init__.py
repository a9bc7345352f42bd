"""One request, four steps: read the body, find the endpoint, verify, append."""
