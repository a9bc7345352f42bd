"""Commands find the stack that runs: the one in PIPELINE_HOME, or the only one that this user runs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.cli.conftest import Pipeline

HOLDER = """
import sys
from pathlib import Path
from deploy.local.state import Stack, locked, write_stack
home = Path(sys.argv[1])
home.mkdir(parents=True)
with locked(home):
    urls = dict(inbox_url="redis://r/0", broker_url="redis://r/0", secrets_key="x", ingress_url="http://i", flower_url="http://f")
    write_stack(home, Stack(database_url=f"postgresql://{home.name}/x", **urls))
    print("holds", flush=True)
    sys.stdin.read()
"""


def hold(home: Path, pipeline: Pipeline) -> subprocess.Popen[str]:
    """Be a stack in that folder, as far as commands see it."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(home)],
        env=pipeline.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout
    assert holder.stdout.readline() == "holds\n"
    return holder


@pytest.fixture
def bare(pipeline: Pipeline) -> Pipeline:
    """Commands to which nothing says where the servers are."""
    return replace(pipeline, environ={name: pipeline.environ[name] for name in ("PATH", "HOME")})


def test_the_only_stack_of_this_user_is_found_from_any_folder(bare: Pipeline, tmp_path: Path) -> None:
    assert "no stack runs here" in bare("env", status=1).err
    first, second = tmp_path / "first", tmp_path / "a second"
    with hold(first, bare) as holder:
        assert "postgresql://first/x" in bare("env").text
        elsewhere = bare("env", status=1, PIPELINE_HOME=str(tmp_path / "other")).err
        assert f"no stack runs in {tmp_path / 'other'}: set PIPELINE_HOME={first}" in elsewhere
        with hold(second, bare) as other:
            both = bare("env", status=1).err
            assert f"PIPELINE_HOME='{second}' or PIPELINE_HOME={first}" in both
            assert "postgresql://first/x" in bare("env", PIPELINE_HOME=str(first)).text
            other.kill()
        assert "postgresql://first/x" in bare("env").text, "a killed one is not counted"
        holder.communicate()
    assert "no stack runs here" in bare("env", status=1).err
