"""The release that every process says it is of."""

from __future__ import annotations

import re
import tomllib

from shared.releases import RELEASE
from tests.launching import ROOT


def test_the_release_is_that_of_the_package_and_of_the_changelog() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == RELEASE
    latest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert latest is not None
    assert latest[1] == RELEASE
