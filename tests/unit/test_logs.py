"""The form of log lines."""

from __future__ import annotations

import json
import logging
import os
import pty
import subprocess
import sys
from typing import Any

import pytest

from shared.logs import JsonLines, TextLines

LOG = "from shared.logs import configure; import logging, sys; configure('info', sys.argv[1]); {}"


def record(*, error: BaseException | None = None, **extra: object) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error else None
    return logging.getLogger("team").makeRecord(
        "team", logging.WARNING, __file__, 1, "no %s", ("room",), info, extra=extra
    )


def raised() -> BaseException:
    with pytest.raises(ValueError, match="full") as caught:
        int("full")
    return caught.value


def run(form: str, what: str) -> list[str]:
    """Return the lines that a process writes to standard error, which is no terminal."""
    command = [sys.executable, "-c", LOG.format(what), form]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stderr.splitlines()


def test_a_line_of_json_has_what_its_caller_gave_and_nothing_that_is_none() -> None:
    line: dict[str, Any] = json.loads(JsonLines().format(record(tenant="acme", provider=None, customer={"id": 7})))
    assert line.pop("at").endswith("+00:00")
    assert line == {
        "level": "warning",
        "logger": "team",
        "message": "no room",
        "tenant": "acme",
        "customer": {"id": 7},
    }


def test_a_traceback_is_a_field_of_the_one_line() -> None:
    text = JsonLines().format(record(error=raised()))
    assert "\n" not in text
    assert json.loads(text)["traceback"].endswith("ValueError: invalid literal for int() with base 10: 'full'")


@pytest.mark.parametrize("lines", [JsonLines(), TextLines()], ids=["json", "text"])
def test_a_traceback_that_its_caller_keeps_elsewhere_is_left_out_here_and_stays_with_the_record(
    lines: logging.Formatter,
) -> None:
    made = record(error=raised(), traceback=None)
    assert "ValueError" not in lines.format(made)
    assert made.exc_info is not None


def test_a_line_of_text_has_the_fields_after_the_message() -> None:
    text = TextLines().format(record(tenant="acme", provider=None))
    assert text.partition(" ")[2] == "WARNING team: no room  tenant=acme"


def test_what_celery_and_uvicorn_add_to_their_records_is_not_shown() -> None:
    line = json.loads(JsonLines().format(record(data={"args": "()"}, color_message="\x1b[1m")))
    assert not {"data", "color_message"} & set(line)


@pytest.mark.parametrize(("form", "is_json"), [("", True), ("json", True), ("text", False)])
def test_beyond_a_terminal_lines_are_json_unless_text_is_asked_for(form: str, *, is_json: bool) -> None:
    (line,) = run(form, "logging.info('told')")
    assert line.startswith('{"at"') is is_json
    assert "told" in line


def test_on_a_terminal_lines_are_text() -> None:
    ours, theirs = pty.openpty()
    try:
        subprocess.run([sys.executable, "-c", LOG.format("logging.info('told')"), ""], stderr=theirs, check=True)
        line = os.read(ours, 1000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert line.rstrip().endswith("INFO    root: told")


def test_warnings_of_python_are_lines_too() -> None:
    (line,) = run("", "import warnings; warnings.warn('old')")
    assert json.loads(line)["logger"] == "py.warnings"


def test_a_teams_handler_of_records_stays_unless_it_writes_to_the_same_place() -> None:
    # as a module of handlers does when it is imported, before the worker's own logging is set up
    before = "logging.basicConfig(); logging.getLogger().addHandler(logging.handlers.MemoryHandler(9));"
    what = f"import logging.handlers; {before} configure('info', ''); logging.info('told')"
    what += "; print([type(it).__name__ for it in logging.getLogger().handlers], file=sys.stderr)"
    told, handlers = run("", what)
    assert json.loads(told)["message"] == "told"
    assert handlers == "['StreamHandler', 'MemoryHandler']"
