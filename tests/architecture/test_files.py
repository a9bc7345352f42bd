"""What every file of the repository keeps to."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("shared", "ingress", "workers", "deploy")

LONG = 400
JUSTIFIED: dict[str, str] = {
    "tests/": "a test file is as long as the behaviour it covers has cases",
}
"""Files over `LONG` lines, or folders of them, and why."""

MAY_READ_THE_ENVIRONMENT = {
    "shared/settings.py": "where settings come from",
    "shared/heartbeat.py": "systemd's socket, which no person sets",
    "deploy/local/settings.py": "services inherit the environment of `make run`",
    "deploy/flower/__main__.py": "hands Flower its password past the command line",
}

# Written in two halves, so that this file does not hold them.
FORBIDDEN = [
    *("/wo" + "rk/", "/ro" + "ot/", "/opt/" + "wheels", "/opt/" + "pypi"),  # somebody's machine
    *("pypi" + ".org", "python" + "hosted", "--index" + "-url", "--find" + "-links"),  # where packages come from
    *("TO" + "DO", "FIX" + "ME"),  # finish it, or say in words what is left out
]
MAY_SAY = {
    # tells the tool to leave indexes out of the lock files
    "deploy/locks/lock.sh": ("--find" + "-links", "--index" + "-url"),
}


@cache
def tracked() -> tuple[Path, ...]:
    """The files under version control; those of the folder where there is none."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    listing = subprocess.run(command, capture_output=True, check=False)
    if listing.returncode == 0:
        paths = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    else:
        paths = [path for path in ROOT.rglob("*") if not set(path.parts) & {".venv", ".local", "__pycache__"}]
    return tuple(path for path in paths if path.is_file())


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def sources() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py"]


def own(path: Path) -> bool:
    return name_of(path).split("/")[0] in PACKAGES


def test_a_long_file_is_justified() -> None:
    long = {name_of(path): len(path.read_text().splitlines()) for path in sources()}
    unjustified = {
        name: lines
        for name, lines in long.items()
        if lines > LONG and not any(name.startswith(prefix) for prefix in JUSTIFIED)
    }
    assert not unjustified


def test_no_file_is_a_drawer_for_everything() -> None:
    drawers = re.compile(r"(^|_)(utils?|helpers?|managers?|misc|common)(_|$)")
    assert not [name_of(path) for path in sources() if drawers.search(path.stem)]


@pytest.mark.parametrize("word", FORBIDDEN)
def test_no_file_speaks_of_a_machine_a_package_index_or_unfinished_work(word: str) -> None:
    holders = [
        name_of(path)
        for path in tracked()
        if word.encode() in path.read_bytes() and word not in MAY_SAY.get(name_of(path), ())
    ]
    assert not holders


def test_every_module_says_what_it_is() -> None:
    assert not [name_of(path) for path in sources() if own(path) and not ast.get_docstring(ast.parse(path.read_text()))]


def test_only_settings_read_the_environment() -> None:
    readers = set()
    for path in filter(own, sources()):
        for node in ast.walk(ast.parse(path.read_text())):
            if ast.unparse(node) in {"os.environ", "os.environb", "os.getenv"}:
                readers.add(name_of(path))
    assert readers <= set(MAY_READ_THE_ENVIRONMENT)
