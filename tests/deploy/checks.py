"""The tools that `make checks` installs beside this environment."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[2]
TOOLS: Final = ROOT / ".venv-checks" / "bin"

needs_checks: Final = pytest.mark.skipif(
    not TOOLS.exists(), reason="the tools that check deploy/ are not installed: run make checks"
)
_READ: Final = "import json, sys, yaml; print(json.dumps([it for it in yaml.safe_load_all(sys.stdin) if it]))"


def run_tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(TOOLS / name), *map(str, arguments)], capture_output=True, text=True, check=False)


def read_yaml(text: str) -> list[Any]:
    """Return the documents of a YAML text."""
    command = [str(TOOLS / "python"), "-c", _READ]
    return list(json.loads(subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout))
