"""`workers.testing`, as a team uses it: a folder of their own with handlers, tests and a `conftest.py`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
CONFTEST: Final = 'pytest_plugins = ["workers.testing"]\n'
HANDLERS: Final = """
import asyncio

from workers import handler, on_process_start

started = []

@on_process_start
async def start():
    started.append(asyncio.get_running_loop())

@handler("acme.write", event="verification.completed", provider="moveris")
def write(event, delivery):
    delivery.connection.execute("CREATE TABLE IF NOT EXISTS written (id uuid, attempt int, tenant text)")
    row = [delivery.event_id, delivery.attempt, delivery.tenant]
    delivery.connection.execute("INSERT INTO written VALUES (%s, %s, %s)", row)

@handler("acme.write_and_fail")
async def write_and_fail(event, delivery):
    await asyncio.sleep(0)
    assert started == [asyncio.get_running_loop()]
    delivery.connection.execute("CREATE TABLE left_behind ()")
    raise LookupError(delivery.subject)

@handler("acme.commit")
def commit(event, delivery):
    delivery.connection.commit()

@handler("acme.swallow")
def swallow(event, delivery):
    try:
        delivery.connection.execute("SELECT 1 / 0")
    except Exception:
        pass

@handler("acme.pulls", event="pull_request.*", provider="github", tenant="octo")
def pulls(event, delivery):
    assert (event.json()["action"], event.type, delivery.tenant) == ("opened", "pull_request.opened", "octo")
    assert delivery.headers["x-github-event"] == "pull_request"
"""
TESTS: Final = """
import pytest

import team_handlers as team
from workers.errors import TransactionMisused
from workers.events import Rejected

@pytest.mark.parametrize("turn", [1, 2])
def test_what_a_handler_writes_is_seen_and_gone_in_the_next_test(run_handler, delivery_connection, turn):
    assert delivery_connection.execute("SELECT to_regclass('written')").fetchone() == (None,)
    run_handler(team.write)
    run_handler(team.write, tenant="acme", attempt=2)
    rows = delivery_connection.execute("SELECT attempt, tenant FROM written ORDER BY 1").fetchall()
    assert rows == [(1, "test"), (2, "acme")]

def test_what_it_raises_is_raised_and_its_writes_are_undone(run_handler, delivery_connection):
    body = b'{"type": "thing", "data": {"id": "7"}}'
    with pytest.raises(LookupError):
        run_handler(team.write_and_fail, body=body, provider="standard-webhooks")
    assert delivery_connection.execute("SELECT to_regclass('left_behind')").fetchone() == (None,)

@pytest.mark.parametrize(("function", "said"), [(team.commit, "leave commit"), (team.swallow, "swallowed")])
def test_a_misused_connection_is_told(run_handler, function, said):
    with pytest.raises(TransactionMisused, match=said):
        run_handler(function)

def test_a_handler_of_many_types_is_run_with_the_one_that_is_named(run_handler):
    run_handler(team.pulls, event="pull_request.opened")

def test_an_event_that_the_handler_would_not_get_is_refused(run_handler):
    with pytest.raises(ValueError, match="acme.write is not called for 'verification.failed'"):
        run_handler(team.write, event="verification.failed")
    with pytest.raises(ValueError, match="is no handler"):
        run_handler(len)
    with pytest.raises(Rejected):
        run_handler(team.write, body=b"no JSON")
"""


def run_tests(folder: Path, **environ: str) -> str:
    """Run pytest in a team's folder and return its last line."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "DATABASE"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    done = subprocess.run(command, cwd=folder, env=kept | environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip().rpartition("\n")[2]


def test_a_team_tests_its_handlers_on_its_own_postgres_and_leaves_nothing_there(
    tmp_path: Path, database_url: str
) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "team_handlers.py").write_text(HANDLERS)
    (tmp_path / "test_team.py").write_text(TESTS)
    assert "7 passed" in run_tests(tmp_path, DATABASE_URL=database_url)


def test_the_example_of_the_documents_passes_on_an_embedded_postgres(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    *_, conftest, tests = re.findall(r"```python\n(.*?)```", (ROOT / "deploy/HANDLERS.md").read_text(), re.DOTALL)
    (tmp_path / "acme_handlers.py").write_text(example)
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_acme_handlers.py").write_text(tests)
    assert "2 passed" in run_tests(tmp_path)


def test_a_database_that_is_away_is_an_error_of_the_test(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_team.py").write_text("def test_it(run_handler): ...\n")
    with pytest.raises(AssertionError, match="OperationalError"):
        run_tests(tmp_path, DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
