"""The Makefile, and what the documents say of it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))


def test_make_alone_lists_every_target_with_a_sentence() -> None:
    listing = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = {line.split()[1]: line.split(maxsplit=2)[2] for line in listing.stdout.splitlines()}
    assert set(listed) == targets()
    assert all(sentence.endswith(".") for sentence in listed.values())


def test_every_target_is_phony_so_that_no_file_of_its_name_hides_it() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert set(phony.split()) == targets()


@pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="there is no README here")
def test_every_make_target_that_the_documents_name_exists() -> None:
    documents = [ROOT / "README.md", *sorted((ROOT / "deploy").rglob("*.md"))]
    named = {
        target
        for document in documents
        for target in re.findall(r"(?:`|^|\$ )make ([a-z][a-z-]*)", document.read_text(), re.MULTILINE)
    }
    assert {"run", "test"} <= named
    assert named <= targets()


def test_continuous_integration_runs_what_a_person_runs() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "make lint" in script
    assert "make test" in script


def test_a_commit_is_checked_by_the_linters_of_continuous_integration() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    (lint,) = re.findall(r"^lint:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in lint.splitlines()]
    assert len(commands) == 4
    assert re.findall(r"entry: (.*)", hooks) == commands
    assert re.findall(r"repo: (.*)", hooks) == ["local"]
