"""What a type checker says about handlers: good ones pass `mypy --strict`, mistakes are named in their line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMPORTS = """\
from workers import Delivery, Event, GenericEvent, handler, on_process_start
from workers.events.moveris import VerificationCompleted, VerificationFailed
"""
GOOD = """
@handler("acme.completed", event="verification.completed", provider="moveris", tenant="acme", max_attempts=3)
def completed(event: VerificationCompleted, delivery: Delivery) -> None:
    print(event.data.verdict, delivery.subject, delivery.idempotency_key)

@handler("acme.failed", event="verification.failed", provider="moveris", timeout=3, schedule=[1, 2.5])
async def failed(event: VerificationFailed, delivery: Delivery) -> None:
    print(event.data)

@handler("acme.any", event="verification.completed", provider="moveris")
def any_event(event: Event, delivery: Delivery) -> str | None:
    return event.subject

@handler("acme.pulls", event="pull_request.*", provider="github")
def pulls(event: GenericEvent, delivery: Delivery) -> None:
    print(event.json())

@handler("acme.one_tenant", event="verification.completed", tenant="acme")
def one_tenant(event: VerificationCompleted, delivery: Delivery) -> None:
    completed(event, delivery)

@on_process_start
def start() -> None: ...

@on_process_start
async def start_on_the_loop() -> None: ...
"""
BAD = """
@handler("acme.a", timout=3)  # "timout"
def a(event: Event, delivery: Delivery) -> None: ...

@handler("acme.b", event=7)  # "int"
def b(event: Event, delivery: Delivery) -> None: ...

@handler("acme.c", schedule=5)  # "int"
def c(event: Event, delivery: Delivery) -> None: ...

@handler("acme.d", event="verification.completed", provider="moveris")  # VerificationFailed
def d(event: VerificationFailed, delivery: Delivery) -> None: ...

@handler("acme.e", event="verification.failed", provider="moveris")  # VerificationCompleted
async def e(event: VerificationCompleted, delivery: Delivery) -> None: ...

@handler("acme.f")  # Callable[[Event], None]
def f(event: Event) -> None: ...

@handler("acme.g")  # Delivery
def g(delivery: Delivery, event: GenericEvent) -> None: ...

@on_process_start  # Delivery
def h(delivery: Delivery) -> None: ...
"""


def check(text: str, folder: Path) -> str:
    """Return what mypy says about a module of a team."""
    module = folder / "acme_handlers.py"
    module.write_text(IMPORTS + text)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file", "pyproject.toml"]
    return subprocess.run([*command, str(module)], cwd=ROOT, capture_output=True, text=True, check=False).stdout


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """What mypy says about the bad ones, by line."""
    said = check(BAD, tmp_path_factory.mktemp("bad"))
    found: dict[int, str] = {}
    for line, text in re.findall(r"acme_handlers\.py:(\d+): (.*)", said):
        found[int(line)] = found.get(int(line), "") + text
    return found


def test_well_typed_handlers_pass(tmp_path: Path) -> None:
    assert check(GOOD, tmp_path) == ""


BAD_LINES = [(number, line) for number, line in enumerate((IMPORTS + BAD).splitlines(), 1) if "  # " in line]


@pytest.mark.parametrize(("number", "line"), BAD_LINES, ids=[line.partition("  #")[0] for _, line in BAD_LINES])
def test_a_mistake_is_named_by_mypy(number: int, line: str, complaints: dict[int, str]) -> None:
    assert line.partition("  # ")[2] in complaints.get(number, "")
