"""`python -m deploy.cli` is `pipeline`."""

from __future__ import annotations

from deploy.cli.main import main

main()
