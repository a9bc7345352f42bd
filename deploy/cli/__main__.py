"""`python -m deploy.cli` is `pipeline`."""

from __future__ import annotations

from webhook_pipeline import main

main()
