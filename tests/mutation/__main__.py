"""`python -m tests.mutation`: change the code a little, many times, and see whether the tests of that code fail.

Mutants of Python code are made from its syntax tree: so many of each file, drawn with a seed. Those of SQL, and further
ones of code that carries a guarantee, are written in `plan.toml`, which also says which tests are run for each file. A
mutant is killed if one of these fails, or if they take three times as long as on clean code. They run in temporary
copies of the tree, each with a Postgres of its own that all runs of its tests use.

It prints a line for each mutant, with the test that killed it, and in the end the score. Mutants that change nothing
that anybody could see are listed as `equivalent` in `plan.toml`, with the reason, and are not tried. Those known to
survive are listed there as `survivor`, with the reason; they count as survivors.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast
from zlib import crc32

from tests.conftest import run_postgres
from tests.mutation.mutants import Mutant, make_mutants, replace_text

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Iterator, Sequence

ROOT: Final = Path(__file__).parents[2]
PLAN: Final = Path(__file__).with_name("plan.toml")
LONGEST_SECONDS: Final = 300.0
FLOOR: Final = 0.9


class Place(NamedTuple):
    """A copy of the tree, and the URL of the Postgres that its tests use."""

    tree: Path
    postgres_url: str


class Run(NamedTuple):
    """Arguments of pytest, and how many seconds it may take."""

    tests: tuple[str, ...]
    seconds: float


class Case(NamedTuple):
    """A mutant, and the arguments of pytest that run the tests of that code."""

    mutant: Mutant
    tests: tuple[str, ...]


def main() -> None:
    """Parse the command line, try the mutants, print the score; the status is 1 below nine in ten."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", type=int, default=6, help="mutants that are drawn of each file; default 6")
    parser.add_argument("--seed", type=int, default=1, help="of the draw; default 1")
    parser.add_argument("--at-once", type=int, default=2, help="mutants that are tried at the same time; default 2")
    parser.add_argument("--only", default="", metavar="TEXT", help="only files whose path holds this text")
    chosen = parser.parse_args()
    plan = tomllib.loads(PLAN.read_text())
    known = {(it["file"], it["old"], it["new"]) for it in plan.get("survivor", [])}
    cases = [it for it in choose_cases(plan, chosen.sample, chosen.seed) if chosen.only in it.mutant.file]
    if not cases:
        sys.exit(f"--only {chosen.only}: {PLAN.name} has no such file")
    try:
        survivors = asyncio.run(try_all(cases, chosen.at_once))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("interrupted; nothing is left behind")
    killed = len(cases) - len(survivors)
    print(f"\n{killed} of {len(cases)} mutants killed: {100 * killed / len(cases):.1f} %")
    for mutant in survivors:
        print("survived, known:" if mutant.key in known else "survived:", mutant)
    sys.exit(killed < FLOOR * len(cases))


def choose_cases(plan: dict[str, list[dict[str, Any]]], sample: int, seed: int) -> list[Case]:
    """Return the mutants that are written in the plan, and those drawn of each of its files."""
    tests = {it["file"]: tuple(it["tests"]) for it in plan["module"]}
    cases = [
        Case(replace_text(ROOT, it["file"], it["old"], it["new"]), tuple(it.get("tests") or tests[it["file"]]))
        for it in plan["by_hand"]
    ]
    equivalent = {(it["file"], it["old"], it["new"]) for it in plan.get("equivalent", [])}
    for file, arguments in tests.items():
        made = [it for it in make_mutants(ROOT, file) if it.key not in equivalent]
        made.sort(key=lambda it: crc32(f"{seed} {it.key}".encode()))  # a change of the file draws no others
        cases += [Case(it, arguments) for it in sorted(made[:sample])]
    return cases


async def try_all(cases: Sequence[Case], at_once: int) -> list[Mutant]:
    """Try each mutant in a copy of the tree; return those that survived."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, cast("Task[Any]", asyncio.current_task()).cancel)
    groups: dict[tuple[str, ...], list[Mutant]] = {}
    for case in cases:
        groups.setdefault(case.tests, []).append(case.mutant)
    survivors = []

    async def work(place: Place) -> None:
        while groups:
            tests, mutants = groups.popitem()
            run = await try_clean(place, tests)
            survivors.extend([mutant for mutant in mutants if await survives(place, mutant, run)])

    with ExitStack() as stack:
        places = [stack.enter_context(make_place()) for _ in range(at_once)]
        async with asyncio.TaskGroup() as tasks:
            for place in places:
                tasks.create_task(work(place))
    return sorted(survivors)


@contextmanager
def make_place() -> Iterator[Place]:
    """Make a place, which is removed when the block ends."""
    with TemporaryDirectory(prefix="pipeline-mutation-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        home.chmod(0o755)  # Postgres may run as another user
        with run_postgres(home) as server:
            yield Place(copy_tree(home / "tree"), server.url)


def copy_tree(to: Path) -> Path:
    """Copy what git knows of, as it is now."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout.splitlines():
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to / name)
    return to


async def try_clean(place: Place, tests: tuple[str, ...]) -> Run:
    """Run tests on clean code; return how to run them on mutants, without those that fail twice as it is."""
    fails: list[str] = []
    while True:
        run = Run((*tests, *(f"--deselect={it}" for it in fails if fails.count(it) > 1)), LONGEST_SECONDS)
        began = time.monotonic()
        failure = await run_tests(place, run)
        if not failure:
            return run._replace(seconds=min(LONGEST_SECONDS, 20 + 3 * (time.monotonic() - began)))
        print(f"fails on clean code: {failure}", flush=True)
        if not failure.startswith("tests/") or fails.count(failure) > 1:
            raise RuntimeError(f"{' '.join(tests)} cannot be run on clean code")
        fails.append(failure)


async def survives(place: Place, mutant: Mutant, run: Run) -> bool:
    """Run the tests on a mutant, and print what came of it; a test that a busy machine makes fail kills nothing."""
    file = place.tree / mutant.file
    source = file.read_bytes()
    file.write_bytes(mutant.apply(source))
    for _ in range(2):
        failure = await run_tests(place, run)
        if not failure.startswith("tests/integration") or await run_tests(place, run._replace(tests=(failure,))):
            break
    file.write_bytes(source)
    print(f"killed by {failure}:" if failure else "survived:", mutant, flush=True)
    return not failure


async def run_tests(place: Place, run: Run) -> str:
    """Run tests until the first fails; return which it was, or "" if all passed in time."""
    argv = [sys.executable, "-m", "pytest", "-q", "-x", "-rfE", "-m", "not long", "-p", "no:cacheprovider", *run.tests]
    environ = os.environ | {
        "PYTHONPATH": str(place.tree), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "250",
        "TEST_POSTGRES_URL": place.postgres_url,
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *argv, cwd=place.tree, env=environ, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, start_new_session=True
    )
    try:
        async with asyncio.timeout(run.seconds):
            output = (await process.communicate())[0].decode()
    except TimeoutError:
        return f"the bound of {run.seconds:.0f} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it has started ends with it
        await process.wait()
    if process.returncode == 0:
        return ""
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", output, re.MULTILINE)
    return failed[1] if failed else output.strip().splitlines()[-1]


if __name__ == "__main__":
    main()
