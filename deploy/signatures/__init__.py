"""Why a signature fails, and secrets as people paste them; for the command line and whatever else shows it.

In reading order: `captured` (headers as tools print them, secrets of the endpoint), `diagnosis` (what the ingress would
answer, and why), `mistakes` (what a signature fits with), `secret_text` (a secret without what copying leaves around
it).
"""
