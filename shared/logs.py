"""Logs: one line for each record on standard error, JSON for programs or text for people.

A line has the fields that its caller gives with `extra=`. While a handler runs, it has those of the delivery too,
unless the caller gives them itself. Bodies, secrets and signatures are logged nowhere.
"""

import logging
import sys
from collections.abc import Callable
from copy import copy
from datetime import UTC, datetime
from typing import Any, Final

from pythonjsonlogger.core import RESERVED_ATTRS, merge_record_extra
from pythonjsonlogger.json import JsonFormatter

DELIVERY_FIELDS: Final = ("event_id", "tenant", "provider", "handler", "attempt")
"""Attributes of a delivery that a handler's lines carry by themselves."""
NOT_SHOWN: Final = frozenset({*RESERVED_ATTRS, "taskName", "data", "color_message"})
"""What every record has, and what Celery and uvicorn add to theirs: their text says it already."""
UVICORN_LOGGERS: Final = ("uvicorn", "uvicorn.error", "uvicorn.access")


class JsonLines(JsonFormatter):
    """Formats a record as one line of JSON; fields that are None are left out."""

    def __init__(self) -> None:
        super().__init__(
            ["name", "message"],
            rename_fields={"name": "logger", "exc_info": "traceback"},
            reserved_attrs=sorted(NOT_SHOWN),
            json_default=str,
        )

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return super().format(_without_stored_traceback(record))

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Put time and level first."""
        log_data["at"] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        log_data["level"] = record.levelname.lower()
        super().add_fields(log_data, record, message_dict)

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Leave out what is None."""
        return {name: value for name, value in log_data.items() if value is not None}


class TextLines(logging.Formatter):
    """Formats a record for a terminal: the fields stand behind the message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and the lines of a traceback after it."""
        return super().format(_without_stored_traceback(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - of logging
        """Return the line without the traceback."""
        fields = merge_record_extra(record, {}, reserved=NOT_SHOWN)
        shown = (f"{name}={value}" for name, value in fields.items() if value is not None)
        return "  ".join((super().formatMessage(record), *shown))


def configure(level: str, form: str, *, delivery: Callable[[], object | None] = lambda: None) -> None:
    """Send every log record of this process to standard error.

    Handlers that a team's modules have added to the root logger stay, unless they write to standard error or output.

    Args:
        level: of the records, from this one up.
        form: "json" or "text"; empty for text on a terminal and JSON elsewhere.
        delivery: returns the one that is being handled where a record is made.
    """

    def add_fields(record: logging.LogRecord) -> bool:
        if (current := delivery()) is not None:
            for name in DELIVERY_FIELDS:
                record.__dict__.setdefault(name, getattr(current, name))
        return True

    form = form or ("text" if sys.stderr.isatty() else "json")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextLines() if form == "text" else JsonLines())
    handler.addFilter(add_fields)
    root = logging.getLogger()
    others = [it for it in root.handlers if getattr(it, "stream", None) not in {sys.stderr, sys.stdout}]
    root.handlers = [handler, *others]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    for logger in map(logging.getLogger, UVICORN_LOGGERS):
        if logger.handlers:  # uvicorn was started by its own command, and writes lines of its own form
            logger.handlers = []
            logger.propagate = True


def _without_stored_traceback(record: logging.LogRecord) -> logging.LogRecord:
    """Return the record without its exception if the caller has said where the traceback is, or that it is nowhere.

    Other handlers, such as Sentry's, get it all the same.
    """
    if "traceback" not in record.__dict__:
        return record
    record = copy(record)
    record.exc_info = record.exc_text = None
    return record
