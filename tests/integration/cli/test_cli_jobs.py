"""`pipeline jobs` and the commands that submit one, as processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.integration.test_manual import finish, rows, store
from workers.housekeeping import jobs as worker
from workers.store import jobs
from workers.store.jobs import Filter

if TYPE_CHECKING:
    from uuid import UUID

    from tests.integration.cli.conftest import Pipeline
    from workers.store.connect import Connection


@pytest.fixture
def dead(connection: Connection) -> list[UUID]:
    """Three dead deliveries."""
    ids = [store(connection) for _ in range(3)]
    for event_id in ids:
        finish(connection, event_id, state="dead")
    return ids


@pytest.mark.usefixtures("dead")
def test_a_small_one_is_done_by_its_own_command_and_listed(pipeline: Pipeline, connection: Connection) -> None:
    done = pipeline("deliveries", "retry", "--tenant", "acme", "--reason", "API is back", LOGNAME="alice")
    assert "3 deliveries put back" in done.text
    (listed,) = pipeline.json("jobs", "list")
    assert (listed["kind"], listed["state"], listed["who"], listed["why"]) == ("retry", "done", "alice", "API is back")
    assert (listed["expected"], listed["changed"]) == (3, 3)
    assert "3 of 3" in pipeline("jobs", "list").text
    shown = pipeline("jobs", "show", str(listed["id"])).text
    assert "API is back" in shown
    assert "3 acme acme.grant" in shown
    assert len(rows(connection, "deliveries")) == 3


@pytest.mark.usefixtures("dead")
def test_ctrl_c_leaves_the_job_running_and_says_how_to_follow(pipeline: Pipeline, connection: Connection) -> None:
    # What was started in the background of a shell ignores Ctrl-C, and so would what it starts.
    listening = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", f"{listening} runpy.run_module('deploy.cli', run_name='__main__')"),
            *("deliveries", "retry", "--all", "--rate", "1/s"),
        ],
        env=os.environ | pipeline.environ,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not any(it.changed for it in jobs.list_jobs(connection, limit=1)):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    (job,) = jobs.list_jobs(connection, limit=1)
    assert process.returncode == 130, said
    assert f"pipeline jobs wait {job.id}" in said
    assert (job.state, job.begins_at <= job.at) == ("running", True)


@pytest.mark.usefixtures("dead")
def test_a_job_is_paused_resumed_cancelled_and_waited_for(pipeline: Pipeline, connection: Connection) -> None:
    job = str(jobs.submit(connection, "retry", Filter(), who="alice"))
    pipeline("jobs", "pause", job, "--reason", "too much at once", LOGNAME="bob")
    assert pipeline.json("jobs", "list", "--state", "paused")[0]["id"] == int(job)
    (paused, _) = pipeline.json("audit", "list", f"job {job}")
    assert (paused["who"], paused["what"], paused["why"]) == ("bob", "jobs paused", "too much at once")
    pipeline("jobs", "resume", job)
    worker.work(connection, seconds=60)
    assert "3 changed" in pipeline("jobs", "wait", job).text
    assert "is done" in pipeline("jobs", "cancel", job, status=1).err
    other = str(jobs.submit(connection, "retry", Filter(), who="alice"))
    assert "after 0 were done" in pipeline("jobs", "cancel", other).text
    assert "was cancelled" in pipeline("jobs", "wait", other, status=1).err
    assert "no job 99" in pipeline("jobs", "show", "99", status=1).err


def test_what_has_succeeded_is_resent_by_name(pipeline: Pipeline, connection: Connection) -> None:
    finish(connection, store(connection), state="succeeded")
    finish(connection, store(connection), state="succeeded", handler="acme.other")
    asked = ("deliveries", "resend", "acme.grant")
    assert "--all" in pipeline(*asked, status=1).err
    assert "1 delivery would be put back" in pipeline(*asked, "--since", "1h", "--dry-run").text
    assert "1 delivery put back" in pipeline(*asked, "--since", "1h").text
    assert [handler for _, handler in rows(connection, "deliveries")] == ["acme.grant"]
