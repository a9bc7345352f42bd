"""`python -m tests.mutation`: change the code a little, many times, and see whether the tests of that code fail.

Mutants of Python code are made from its syntax tree: so many of each file, drawn with a seed. Those of SQL, and further
ones of code that carries a guarantee, are written in `plan.toml`, which also says which tests are run for each file. A
mutant is killed if one of these fails, or if they take three times as long as on clean code. They run in temporary
copies of the tree, two at a time.

It prints a line for each mutant, with the test that killed it, and in the end the score. Mutants that change nothing
that anybody could see are listed as `equivalent` in `plan.toml`, with the reason, and are not tried. Those known to
survive are listed there as `survivor`, with the reason; they count as survivors.
"""

from __future__ import annotations

import argparse
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tests.mutation.mutants import Mutant, make_mutants, replace_text

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT: Final = Path(__file__).parents[2]
PLAN: Final = Path(__file__).with_name("plan.toml")
LONGEST_SECONDS: Final = 300.0
AT_ONCE: Final = 2
FLOOR: Final = 0.9


class Case(NamedTuple):
    """A mutant, and the arguments of pytest that run the tests of that code."""

    mutant: Mutant
    tests: tuple[str, ...]


def main() -> None:
    """Parse the command line, try the mutants, print the score; the status is 1 below nine in ten."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", type=int, default=12, help="mutants that are drawn of each file; default 12")
    parser.add_argument("--seed", type=int, default=1, help="of the draw; default 1")
    parser.add_argument("--only", default="", metavar="TEXT", help="only files whose path holds this text")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the copies are removed
    plan = tomllib.loads(PLAN.read_text())
    known = {(it["file"], it["old"], it["new"]) for it in plan.get("survivor", [])}
    cases = [it for it in choose_cases(plan, chosen.sample, chosen.seed) if chosen.only in it.mutant.file]
    if not cases:
        sys.exit(f"--only {chosen.only}: {PLAN.name} has no such file")
    survivors = try_all(cases)
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
        drawn = random.Random(f"{seed} {file}").sample(made, min(sample, len(made)))  # noqa: S311 - not a secret
        cases += [Case(it, arguments) for it in sorted(drawn)]
    return cases


def try_all(cases: Iterable[Case]) -> list[Mutant]:
    """Try each mutant in a copy of the tree; return those that survived."""
    groups = defaultdict(list)
    for case in cases:
        groups[case.tests].append(case.mutant)
    trees: queue.SimpleQueue[Path] = queue.SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="pipeline-mutation-", ignore_cleanup_errors=True) as home:
        for number in range(AT_ONCE):
            trees.put(copy_tree(Path(home, str(number))))

        def try_group(tests: tuple[str, ...], mutants: list[Mutant]) -> list[Mutant]:
            tree = trees.get()
            try:
                began = time.monotonic()
                if failure := run_tests(tree, tests, LONGEST_SECONDS):
                    sys.exit(f"{' '.join(tests)}: fails on clean code: {failure}")
                bound = min(LONGEST_SECONDS, 20 + 3 * (time.monotonic() - began))
                return [mutant for mutant in mutants if not is_killed(tree, mutant, tests, bound)]
            finally:
                trees.put(tree)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = [pool.submit(try_group, *group) for group in groups.items()]
            try:
                return sorted(mutant for it in found for mutant in it.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def copy_tree(to: Path) -> Path:
    """Copy what git knows of, as it is now."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout.splitlines():
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to / name)
    return to


def is_killed(tree: Path, mutant: Mutant, tests: tuple[str, ...], seconds: float) -> bool:
    """Run the tests on a mutant, and print what came of it."""
    source = (tree / mutant.file).read_bytes()
    (tree / mutant.file).write_bytes(mutant.apply(source))
    failure = run_tests(tree, tests, seconds)
    (tree / mutant.file).write_bytes(source)
    print(f"killed by {failure}:" if failure else "survived:", mutant, flush=True)
    return bool(failure)


def run_tests(tree: Path, tests: tuple[str, ...], seconds: float) -> str:
    """Run tests in a tree until the first fails; return which it was, or "" if all passed in time."""
    argv = [sys.executable, "-m", "pytest", "-q", "-x", "-rfE", "-m", "not long", "-p", "no:cacheprovider", *tests]
    environ = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "250"}
    process = subprocess.Popen(
        argv, cwd=tree, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output = process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the servers end with it
        process.communicate()
        return f"the bound of {seconds:.0f} s"
    if process.returncode == 0:
        return ""
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    return failed[1] if failed else output.strip().splitlines()[-1]


if __name__ == "__main__":
    main()
