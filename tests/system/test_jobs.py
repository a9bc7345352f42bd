"""A job survives `kill -9` of whoever asked for it and of whoever works on it, and does nothing twice."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.system.stack import PIPELINE, kill
from tests.system.waiting import until

if TYPE_CHECKING:
    from tests.system.stack import Stack

COUNT = 20_000


def test_kill_nine_of_its_command_and_of_housekeeping_in_the_middle_of_a_job_does_nothing_twice(stack: Stack) -> None:
    stack.pipeline("tenants", "pause", "jobs")  # so that what is put back stays to be counted
    stack.query(
        "INSERT INTO deliveries_done (event_id, handler, tenant, state, attempt, fence, last_error, created_at)"
        " SELECT (left(uuid_at(now())::text, 24) || lpad(to_hex(n), 12, '0'))::uuid, 'jobs.nobody', 'jobs', 'dead',"
        " 1, 1, 'broken', now() FROM generate_series(1, %s) AS n RETURNING event_id",
        [COUNT],
    )

    def changed() -> int:
        found = stack.query("SELECT changed FROM jobs WHERE kind = 'retry' AND filter ->> 'tenant' = 'jobs'")
        return sum(row["changed"] for row in found)

    command = subprocess.Popen(
        [PIPELINE, "deliveries", "retry", "--tenant", "jobs", "--rate", "4000/s"],
        env=stack.environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(changed, seconds=30, what="the first step")
    command.kill()
    command.wait()
    at_least = changed()
    until(lambda: changed() > at_least, seconds=30, what="a step of housekeeping")
    kill(stack.children("housekeeping")[0])
    at_least = changed()
    until(lambda: changed() > at_least, seconds=60, what="a step of another child")
    kill(stack.main("housekeeping"))
    until(lambda: changed() == COUNT, seconds=120, what="the end of the job")
    (job,) = stack.query("SELECT id, state, expected FROM jobs WHERE kind = 'retry' AND filter ->> 'tenant' = 'jobs'")
    assert (job["state"], job["expected"]) == ("done", COUNT)
    (found,) = stack.query("SELECT count(*) AS count FROM deliveries WHERE tenant = 'jobs'")
    assert found["count"] == COUNT
    said = stack.pipeline("deliveries", "cancel", "--tenant", "jobs")
    assert f"{COUNT} deliveries cancelled" in said
    stack.query("DELETE FROM deliveries_done WHERE tenant = 'jobs' RETURNING 1 AS one")
