"""Floor of dispatch: Celery running tasks that do nothing, configured as its tutorial has it."""

from __future__ import annotations

import os

from celery import Celery

app = Celery("noop", broker=os.environ["REDIS_URL"])
app.conf.task_ignore_result = True


@app.task
def do_nothing(event_id: str) -> None:
    """Do nothing."""
