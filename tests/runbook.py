"""The commands of deploy/RUNBOOK.md, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

RUNBOOK = (Path(__file__).parents[1] / "deploy" / "RUNBOOK.md").read_text()
STARTS_A_PROCESS = re.compile(r"celery |python -m |kill ")
"""Or ends one: tests/deploy/test_health.py has that."""


def commands(section: str) -> list[str]:
    """Return the command lines of a section, empty for its first one, before any other."""
    parts = re.split(r"^## (.*)$", RUNBOOK, flags=re.MULTILINE)
    text = dict(zip(["", *parts[1::2]], parts[::2], strict=True))[section]
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def sections() -> list[str]:
    """Return the titles of all sections, the empty one of the first included."""
    return ["", *re.findall(r"^## (.*)$", RUNBOOK, re.MULTILINE)]
