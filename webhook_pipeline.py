"""What every process does before it imports the rest: check that Python finds the pipeline's packages, not others.

`ingress`, `workers`, `shared` and `deploy` are names that a team's own folders may have. A process that starts beside
such a folder, or with it in PYTHONPATH, would end with "No module named 'shared.envelope'". This module has a name of
its own, so that it can tell which folder is in the way. It is also the command `pipeline`.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path


def require_packages(*names: str) -> None:
    """End the process with one line if Python finds another package of one of these names."""
    ours = Path(__file__).resolve().parent
    for name in names:
        spec = find_spec(name)
        places = [] if spec is None else [Path(place).resolve() for place in spec.submodule_search_locations or [""]]
        if places and places[0] != ours / name:
            sys.exit(
                f"{places[0]} hides the pipeline's own package {name!r}: start in another folder and take "
                f"{places[0].parent} out of PYTHONPATH, or rename that folder"
            )


def main() -> None:
    """Run the command `pipeline`."""
    require_packages("shared", "ingress", "workers", "deploy")
    if sys.argv[1:2] == ["health"]:  # probes run it every few seconds, also where only the ingress is installed
        from deploy.health import main as check_health  # noqa: PLC0415 - after the check

        check_health(sys.argv[2:])
    try:
        from deploy.cli.main import main as run  # noqa: PLC0415 - after the check
    except ModuleNotFoundError as error:
        sys.exit(
            f"pipeline: {error.name} is not installed: the command needs the extra `workers`, "
            "as in `pip install '.[workers]'`"
        )
    run()
