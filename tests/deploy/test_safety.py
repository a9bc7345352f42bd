"""What a reviewer is given: the bill of materials, the licences, and what SECURITY.md names."""

from __future__ import annotations

import json
import re
import subprocess
from importlib.metadata import PackageNotFoundError, metadata
from typing import TYPE_CHECKING, cast

import pytest
import typer.main

from deploy.cli.main import app
from tests.deploy.checks import ROOT, needs_checks

if TYPE_CHECKING:
    from email.message import Message
    from pathlib import Path

LOCKS = ("ingress", "workers", "flower", "console", "otel")
SECURITY = (ROOT / "SECURITY.md").read_text()


def locked(name: str) -> set[tuple[str, str]]:
    """Return the packages of a lock file with their versions."""
    text = (ROOT / "deploy" / "locks" / f"{name}.txt").read_text()
    return set(re.findall(r"^([a-z0-9.-]+)==([^ ;\\]+)", text, re.MULTILINE))


@needs_checks
@pytest.mark.long  # half a minute of CPU
def test_the_bill_of_materials_of_each_deployment_names_every_package_of_its_lock_file(tmp_path: Path) -> None:
    command = ["make", "--no-print-directory", "sbom", f"DIST={tmp_path}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for name in LOCKS:
        bill = json.loads((tmp_path / f"{name}.cdx.json").read_text())
        assert bill["bomFormat"] == "CycloneDX"
        assert bill["metadata"]["component"]["name"] == "webhook-pipeline"
        assert {(it["name"], it["version"]) for it in bill["components"]} == locked(name)


def declared_licence(package: str) -> str | None:
    """Return what an installed package declares; None for one that only other systems have."""
    try:
        found = cast("Message", metadata(package))
    except PackageNotFoundError:
        return None
    if found.get("License-Expression"):
        return str(found["License-Expression"])
    classifiers = [it for it in found.get_all("Classifier") or [] if it.startswith("License :: ")]
    return ", ".join(it.rpartition(" :: ")[2] for it in classifiers) or str(found["License"]).splitlines()[0]


def test_the_table_of_licences_is_what_the_packages_declare() -> None:
    text = (ROOT / "deploy" / "LICENSES.md").read_text()
    found = re.findall(r"^\| `(.+?)` \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    rows = {name: (licence, locks) for name, licence, locks in found}
    packages = {package for lock in LOCKS for package, _ in locked(lock)}
    wanted = {package: [lock for lock in LOCKS if package in dict(locked(lock))] for package in packages}
    assert {name: locks.split(", ") for name, (_, locks) in rows.items()} == wanted
    for name, (licence, _) in rows.items():
        assert declared_licence(name) in {None, licence}, name


def test_every_command_setting_and_file_that_security_names_exists() -> None:
    commands = typer.main.get_group(app).commands
    for first, second in re.findall(r"`pipeline ([a-z]+) ?([a-z]*)`", SECURITY):
        assert first in commands, first
        assert not second or second in getattr(commands[first], "commands", {}), second
    documented = set(re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "deploy" / "SETTINGS.md").read_text(), re.MULTILINE))
    assert {name for name in re.findall(r"`([A-Z]+_[A-Z_]+)`", SECURITY) if name not in documented} == set()
    for path in re.findall(r"\]\(([^)#:]+)\)", SECURITY):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", sorted((ROOT / "deploy").rglob("README.md")), ids=lambda path: str(path.parent.name))
def test_every_file_that_a_page_of_a_deployment_names_exists(page: Path) -> None:
    for path in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / path).exists(), path
    for path in re.findall(r"(?<![\w/.-])(deploy/[\w/.-]+)", page.read_text()):
        assert (ROOT / path.rstrip(".")).exists() or path.endswith((".env", "-")), path
