"""`python -m deploy.cli` is `pipeline`."""

from webhook_pipeline import main

main()
