"""`pipeline health`, for the list of commands; `webhook_pipeline` runs it without importing this package."""

from typing import Annotated

import typer

from deploy.health import DUTIES, main


def health(duty: Annotated[str, typer.Argument(metavar="|".join((*DUTIES, "all")))]) -> None:
    """Tell whether the processes of a duty on this machine go on; exit code 1 if one stands still or is gone."""
    main([duty])
