"""How Flower shows one task.

Each delivery is `tenant/event`, and the reason of a failure comes before its place. Nothing is added to what the
workers sent; a text of another form stays as it is.
"""

from __future__ import annotations

import re
from typing import Any

_FAILURE = re.compile(
    r"DeliveryFailed\((['\"])(?P<where>tenant [^,]+, event [^,]+, attempt \d+): (?P<why>.*)\1\)", re.DOTALL
)


def format_task(task: Any) -> Any:
    """Return the copy of a task that Flower shows: deliveries without brackets, the reason before the place.

    Args:
        task: with the texts `args` and `exception`, either of which may be None.
    """
    task.args = ", ".join(re.findall(r"[\w-]+/[0-9a-f-]{36}", task.args or "")) or task.args
    if found := _FAILURE.fullmatch(task.exception or ""):
        task.exception = f"{found['why']} ({found['where']})"
    return task
