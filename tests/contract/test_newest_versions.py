"""The bounds in `pyproject.toml` say which versions of a library we work with; the lock files hold older ones."""

from __future__ import annotations

import subprocess
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OWN = "webhook-pipeline"


def read_requirements() -> list[str]:
    """Return what `pyproject.toml` asks for, in all of its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    return [each for each in asked if not each.startswith(OWN)]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_what_we_rely_on_holds_with_the_newest_versions_that_the_bounds_allow(tmp_path: Path) -> None:
    venv.create(tmp_path, with_pip=True)
    python = tmp_path / "bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", *read_requirements()], check=True)
    subprocess.run(
        [python, "-m", "pytest", "-q", "-m", "not long", "-p", "no:cacheprovider", "tests/contract"],
        cwd=ROOT,
        check=True,
    )
