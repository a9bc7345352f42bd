"""What the README and its table of settings name exists, and what they must name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from deploy.cli.main import app
from deploy.console.settings import ConsoleSettings
from deploy.exporter.settings import ExporterSettings
from deploy.flower.settings import FlowerSettings
from deploy.health import HealthSettings
from deploy.local.settings import GivenSettings, StackSettings
from ingress.schemes import PRESETS
from ingress.settings import IngressSettings
from shared.settings import Described, describe
from workers.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SETTINGS = (ROOT / "deploy" / "SETTINGS.md").read_text()


KINDS = (
    IngressSettings,
    WorkerSettings,
    StackSettings,
    FlowerSettings,
    ExporterSettings,
    ConsoleSettings,
    GivenSettings,
    HealthSettings,
)


def settings() -> dict[str, Described]:
    """All settings; where two classes read one variable, the first speaks for it."""
    found: dict[str, Described] = {}
    for kind in KINDS:
        for described in describe(kind):
            found.setdefault(described.variable, described)
    return found


READERS = {
    "ingress": IngressSettings,
    "workers": WorkerSettings,
    "make run": StackSettings,
    "Flower": FlowerSettings,
    "exporter": ExporterSettings,
    "console": ConsoleSettings,
    "pipeline": GivenSettings,
    "pipeline health": HealthSettings,
}


def readers(variable: str) -> str:
    """Who reads a variable; what `make run` only passes on is not named twice."""
    found = [name for name, kind in READERS.items() if variable in {it.variable for it in describe(kind)}]
    return ", ".join(found)


def rows_of_settings() -> dict[str, tuple[str, str, str]]:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.*?) \| (.*?) \| (.*?) \|$", SETTINGS, re.MULTILINE)
    return {variable: (default, read_by, about) for variable, default, read_by, about in rows}


def test_the_settings_table_is_the_code() -> None:
    assert rows_of_settings() == {name: (it.default or "-", readers(name), it.about) for name, it in settings().items()}


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 200


def test_every_test_that_it_and_the_page_of_guarantees_name_exists() -> None:
    named = re.findall(r"`(test_\w+)`", README + (ROOT / "deploy" / "GUARANTEES.md").read_text())
    assert named
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name in named if f"def {name}(" not in sources and f"/{name}.py" not in sources] == []


def test_every_file_that_it_names_exists() -> None:
    named = set(re.findall(r"`((?:ingress|workers|shared|deploy|tests)/[\w/.-]*)`", README))
    assert named
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_every_command_that_it_names_exists() -> None:
    commands = typer.main.get_group(app).commands
    named = set(
        re.findall(r"\bpipeline ([a-z]+(?: (?:add|list|show|disable|expire|reprocess|retry|backfill))?)", README)
    )
    for name in named:
        first, _, second = name.partition(" ")
        assert first in commands, f"pipeline {name}"
        if second:
            assert second in getattr(commands[first], "commands", {}), f"pipeline {name}"


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_is_named(preset: str) -> None:
    assert f"`{preset}`" in README
