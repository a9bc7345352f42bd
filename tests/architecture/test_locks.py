"""The lock files: complete, pinned, hashed, and silent about where packages come from."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "deploy" / "locks"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

EXTRAS = {
    "dev": ["dev"],
    "ingress": ["ingress"],
    "workers": ["workers"],
    "flower": ["workers", "flower"],
    "console": ["console"],
    "otel": ["otel"],
}
"""Lock file: the extras that it installs."""
FILES = sorted(path.stem for path in LOCKS.glob("*.txt"))


@cache
def entries(name: str) -> dict[str, list[str]]:
    """Return the pinned requirements of each package, hashes included: one, or one for each kind of platform."""
    text = (LOCKS / f"{name}.txt").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    found: dict[str, list[str]] = {}
    for line in lines:
        found.setdefault(canonicalize_name(re.split(r"[=<>!~\[; ]", line)[0]), []).append(line)
    return found


def pinned(line: str) -> str:
    found = re.search(r"==([^ ;]+)", line)
    assert found, line
    return found[1]


def required(extras: list[str]) -> list[Requirement]:
    """Return what pyproject.toml asks for, its own extras followed."""
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in PROJECT["optional-dependencies"][extra])]
    found: list[Requirement] = []
    for requirement in map(Requirement, texts):
        if canonicalize_name(requirement.name) == PROJECT["name"]:
            found += required(sorted(requirement.extras))
        else:
            found.append(requirement)
    return found


@pytest.mark.parametrize("name", FILES)
def test_every_package_is_pinned_with_hashes(name: str) -> None:
    for line in chain.from_iterable(entries(name).values()):
        assert re.fullmatch(r"[a-z0-9.-]+==[^ ;]+( +; .+?)?( +--hash=sha256:[0-9a-f]{64})+", line), line[:60]


@pytest.mark.parametrize("name", FILES)
def test_no_lock_names_an_index_or_a_url(name: str) -> None:
    assert not re.search(r"://|^-|--index|--find|--extra|--trusted", (LOCKS / f"{name}.txt").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("name", "extras"), EXTRAS.items())
def test_each_lock_satisfies_what_the_project_asks_for(name: str, extras: list[str]) -> None:
    for requirement in required(extras):
        lines = entries(name).get(canonicalize_name(requirement.name))
        assert lines, f"{requirement} is not locked: run `make lock`"
        for line in lines:
            assert requirement.specifier.contains(pinned(line)), f"{requirement} does not allow {line[:60]}"


@pytest.mark.parametrize("name", sorted(set(EXTRAS) - {"dev"}))
def test_what_is_deployed_has_the_versions_that_were_tested(name: str) -> None:
    tested = entries("dev")
    for package, lines in entries(name).items():
        assert set(map(pinned, lines)) <= set(map(pinned, tested[package])), package


def test_the_ingress_lock_holds_no_celery_and_no_psycopg() -> None:
    assert not {"celery", "kombu", "psycopg", "psycopg-binary", "pydantic"} & set(entries("ingress"))


def test_the_workers_lock_holds_no_web_framework() -> None:
    assert not {"starlette", "uvicorn", "flower"} & set(entries("workers"))
