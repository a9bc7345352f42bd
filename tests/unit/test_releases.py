"""Which releases run decides which forms are written."""

from __future__ import annotations

import re
import tomllib

import pytest

from shared.releases import RELEASE, all_read
from tests.launching import ROOT


def test_the_release_is_that_of_the_package_and_of_the_changelog() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == RELEASE
    latest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert latest is not None
    assert latest[1] == RELEASE


@pytest.mark.parametrize("releases", [[], ["0.3.0", "0.10.0", "1.0.0"]])
def test_a_form_is_written_when_every_process_reads_it(releases: list[str]) -> None:
    assert all_read("0.3.0", releases)


@pytest.mark.parametrize("releases", [["0.3.0", "0.2.9"], ["0.3.0", ""]])
def test_a_form_is_not_written_while_one_process_does_not_read_it(releases: list[str]) -> None:
    assert not all_read("0.3.0", releases)
