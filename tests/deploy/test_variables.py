"""The environment variables of everything that is shipped are those of deploy/SETTINGS.md, and the other way round."""

from __future__ import annotations

import re

import pytest

from tests.deploy.checks import ROOT, needs_checks, read_yaml
from tests.deploy.container import CONTAINERFILE
from tests.deploy.units import FOLDER, SERVICES, read_unit

DEPLOY = ROOT / "deploy"
NOT_OURS = re.compile(
    r"PATH|PYTHON[A-Z]+|PIP_[A-Z_]+|POSTGRES_(USER|DB|PASSWORD)|REDISCLI_AUTH|REDIS_PASSWORD|GRAFANA_PASSWORD|GF_[A-Z_]+"
)
"""Python's, pip's, the servers' and Grafana's own, and what compose.yaml makes URLs of."""
READERS = {"ingress": "ingress", "workers": "workers", "flower": "Flower", "exporter": "exporter", "console": "console"}
"""Environment file: who SETTINGS.md says reads a variable."""


def documented() -> dict[str, tuple[str, str]]:
    """Return each variable's default and readers."""
    rows = re.findall(
        r"^\| `([A-Z_]+)` \| (.*?) \| (.*?) \| .*? \|$", (DEPLOY / "SETTINGS.md").read_text(), re.MULTILINE
    )
    return {name: (default, readers) for name, default, readers in rows}


def in_files(name: str) -> dict[str, str]:
    """Return what an environment file names, commented out or not."""
    text = (FOLDER / f"{name}.env.example").read_text()
    return dict(re.findall(r"^#?([A-Z_]+)=(.*)$", text, re.MULTILINE))


def unknown(names: set[str]) -> set[str]:
    return {name for name in names if name not in documented() and not NOT_OURS.fullmatch(name)}


def test_the_units_and_their_files_set_nothing_unknown() -> None:
    names = {name for path in SERVICES for name in read_unit(path).environ}
    names |= {name for file in READERS for name in in_files(file)}
    assert {"HEARTBEAT_DIR", "INGRESS_PORT", "DATABASE_URL"} <= names
    assert not unknown(names)


def test_the_images_set_nothing_unknown() -> None:
    lines = re.findall(r"^ENV (.*)$", CONTAINERFILE.read_text(), re.MULTILINE)
    names = {word.partition("=")[0] for line in lines for word in line.split()}
    assert "HEARTBEAT_DIR" in names
    assert not unknown(names)


@needs_checks
def test_compose_sets_nothing_unknown() -> None:
    (document,) = read_yaml((DEPLOY / "docker" / "compose.yaml").read_text())
    names = {name for service in document["services"].values() for name in service.get("environment", {})}
    asked = set(re.findall(r"\$\{([A-Z_]+)", (DEPLOY / "docker" / "compose.yaml").read_text()))
    given = set(re.findall(r"^([A-Z_]+)=", (DEPLOY / "docker" / ".env.example").read_text(), re.MULTILINE))
    assert asked == given
    assert not unknown(names | given)


@needs_checks
def test_the_manifests_of_kubernetes_set_nothing_unknown() -> None:
    names: set[str] = set()
    for path in (DEPLOY / "kubernetes").rglob("*.yaml"):
        for document in read_yaml(path.read_text()):
            for generator in document.get("configMapGenerator", []):
                names |= {literal.partition("=")[0] for literal in generator["literals"]}
            pod = document.get("spec", {}).get("template", {}).get("spec", {})
            names |= {it["name"] for one in pod.get("containers", []) for it in one["env"]}
            for patch in document.get("patches", []):
                names |= set(re.findall(r"/env/-, value: \{name: ([A-Z_]+)", patch["patch"]))
    assert {"REDIS_URL", "SECRETS_KEY", "HANDLERS", "INGRESS_METRICS_PORT"} <= names
    assert not unknown(names)


@pytest.mark.parametrize("file", READERS)
def test_every_setting_of_a_process_is_in_its_environment_file_with_its_default(file: str) -> None:
    set_by_the_unit = {"HEARTBEAT_DIR"} | ({"INGRESS_PORT"} if file == "ingress" else set())
    for name, (default, readers) in documented().items():
        if READERS[file] in readers.split(", ") and name not in set_by_the_unit:
            assert name in in_files(file), f"add #{name}={default} to deploy/systemd/{file}.env.example"
            line = f"#{name}={'' if default == '-' else default}"
            text = (FOLDER / f"{file}.env.example").read_text()
            assert line in text.splitlines() or f"\n{name}=" in text, f"{file}.env.example should say {line}"
