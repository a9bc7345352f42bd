"""Runs commands for the tests: imports `pipeline` once, then forks a process of its own for each command.

Reads one JSON order a line: arguments, environ, folder, and the files for standard input, output and error. Answers
with the exit status. Importing takes a second on a busy machine, for each of some hundred commands.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

from deploy.cli.main import main


def run(order: dict[str, Any]) -> int:
    """Be the command of this order; return its exit status."""
    for number, (file, flags) in enumerate(
        [(order["stdin"], os.O_RDONLY), (order["stdout"], os.O_WRONLY), (order["stderr"], os.O_WRONLY)]
    ):
        os.dup2(os.open(file, flags), number)
    sys.stdin = os.fdopen(0)
    os.environ.clear()
    os.environ.update(order["environ"])
    os.chdir(order["folder"])
    sys.argv = ["pipeline", *order["arguments"]]
    status = 0
    try:
        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter would end
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__":
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os._exit(run(json.loads(line)))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201 - the answer
