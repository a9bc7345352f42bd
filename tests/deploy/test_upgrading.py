"""The order of an upgrade is the same in CHANGELOG.md, on the page for systemd, and in the test that upgrades."""

from __future__ import annotations

import re
from typing import Final

from tests.deploy.checks import ROOT
from tests.deploy.units import LASTING, SERVICES, read_unit
from tests.system.site import INGRESSES, WORKERS

UPGRADING: Final = (ROOT / "CHANGELOG.md").read_text().partition("### Upgrading")[2].partition("\n### ")[0]
RELEASE: Final = (ROOT / "deploy" / "systemd" / "README.md").read_text().partition("## A new release")[2]


def places(text: str, *words: str) -> list[int]:
    found = [text.find(word) for word in words]
    assert -1 not in found, dict(zip(words, found, strict=True))
    return found


def test_workers_go_before_the_ingress_and_handlers_before_ingest() -> None:
    order = places(
        UPGRADING, "--phase pre", "Handler workers", "Then ingest workers", "Ingress processes", "--phase post"
    )
    assert order == sorted(order)
    commands = ("migrate@pre", "webhook-handlers@*", "webhook-ingest", "ingress@8000", "ingress@8001", "migrate@post")
    assert (order := places(RELEASE, *commands)) == sorted(order)
    assert WORKERS.index("handlers") < WORKERS.index("ingest")
    assert len(INGRESSES) == 2


def test_the_way_back_is_open_until_the_second_phase_and_begins_with_the_ingress() -> None:
    back = UPGRADING.partition("\nBack: ")[2]
    order = places(back, "ingress", "`inbox:overflow` is empty", "workers")
    assert order == sorted(order)
    (last,) = re.findall(r"^(\d)\. `pipeline migrate --phase post`", UPGRADING, re.MULTILINE)
    assert f"possible until step {last}" in " ".join(back.split())


def test_every_unit_is_restarted_and_stop_times_are_those_of_the_units() -> None:
    for path in SERVICES:
        if path.stem != "webhook-migrate@":
            assert path.stem in RELEASE, path.stem
    told = dict(re.findall(r"(\w+) (\d+) s\b", " ".join(UPGRADING.partition("Stop times: ")[2].split())))
    assert told == {
        duty: read_unit(next(it for it in LASTING if it.stem.rstrip("@") == f"webhook-{duty}")).one("TimeoutStopSec")
        for duty in ("ingress", "ingest", "handlers", "express", "housekeeping", "beat", "exporter")
    }
