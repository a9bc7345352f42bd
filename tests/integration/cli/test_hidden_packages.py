"""Starts in a folder, or with a PYTHONPATH, in which other packages have the names of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PIPELINE = str(Path(sys.executable).with_name("pipeline"))
INGRESS = [sys.executable, "-m", "ingress"]
CELERY = [sys.executable, "-m", "celery", "-A", "workers.app", "worker"]


def start(command: list[str], folder: Path, **environ: str) -> str:
    """Run a command that must fail with one line; return the line."""
    clean = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME"}}
    done = subprocess.run(command, cwd=folder, env=clean | environ, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("command", [INGRESS, CELERY, [sys.executable, "-m", "deploy.cli", "env"]])
@pytest.mark.parametrize("has_init", [True, False])
def test_a_folder_that_hides_a_package_of_ours_is_named(command: list[str], has_init: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a case
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / ("__init__.py" if has_init else "own.py")).touch()
    line = start(command, tmp_path)
    assert line.startswith(f"{tmp_path / 'shared'} hides the pipeline's own package 'shared': start in another folder")


@pytest.mark.parametrize("package", ["shared", "workers", "deploy", "ingress"])
def test_the_command_names_what_stands_before_it_in_pythonpath(package: str, tmp_path: Path) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    line = start([PIPELINE, "env"], tmp_path, PYTHONPATH=".")
    assert line.startswith(f"{tmp_path / package} hides the pipeline's own package {package!r}")


@pytest.mark.parametrize("missing", ["typer", "psycopg", "rich"])
def test_where_only_the_ingress_is_installed_the_command_says_what_to_install(missing: str, tmp_path: Path) -> None:
    script = (
        f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['pipeline', 'env']; "
        "from webhook_pipeline import main; main()"
    )
    line = start([sys.executable, "-c", script], tmp_path)
    assert "pip install '.[workers]'" in line
    assert missing in line
