"""Lines of the log, as text or as JSON. A line about a request has its id, and none has what a request said of users
and items: exceptions may quote it, so that of theirs only types and places are written, and so may libraries, which
describe arguments, results and values: their lines end before the first of these."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime

WORDED = ("service.releases", "service.scoring", "service.reranking.watch", "service.server")
"""Loggers whose exceptions are written with their words: these are about files, models and processes."""

OWN = ("service", "models", "uvicorn")
"""First parts of the names of loggers whose messages are written whole. uvicorn's are about processes and addresses."""

_PLAIN = re.compile(r"""[^\n<>(){}\[\]'"`=%]*""")

log = logging.getLogger(__name__)

_REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")


def note_request(request_id: str) -> None:
    """Lines that the running task writes from now on are about this request; "" for none."""
    _REQUEST_ID.set(request_id)


def configure_logging(level: str, form: str) -> None:
    """Log everything to stderr, one line each but for exceptions in text; warnings of libraries too, and exceptions
    that Python would print by itself, with their words: those of threads, and of what nobody waits for."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.unraisablehook = lambda failure: log.error("an exception could not be raised", exc_info=failure.exc_value)
    threading.excepthook = lambda failure: log.error("a thread failed", exc_info=failure.exc_value)


class TextLines(logging.Formatter):
    """Lines for people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        request_id = _REQUEST_ID.get()
        line = f"{self.formatTime(record)} {record.levelname} {record.name} {_message(record)}"
        if request_id:
            line += f" request_id={request_id}"
        fault = _fault(record)
        return f"{line}\n{fault}" if fault else line


class JsonLines(logging.Formatter):
    """Lines for machines: objects with ``time``, ``level``, ``logger``, ``message``, and with ``request_id`` and
    ``exception`` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        if request_id := _REQUEST_ID.get():
            line["request_id"] = request_id
        if fault := _fault(record):
            line["exception"] = fault
        return json.dumps(line, ensure_ascii=False)


def _message(record: logging.LogRecord) -> str:
    """The text of a record; of a library's what stands before the first thing that it describes, with numbers."""
    if record.name.partition(".")[0] in OWN:
        return record.getMessage()
    if record.name == "py.warnings":  # "PLACE:LINE: CATEGORY: words"
        return ":".join(record.getMessage().split(":", 3)[:3])
    values = record.args if isinstance(record.args, tuple) else ()
    numbers = tuple(value if isinstance(value, int | float) else "..." for value in values)
    plain = _PLAIN.match(str(record.msg) % numbers if numbers else str(record.msg))
    return "" if plain is None else plain[0].strip()


def _fault(record: logging.LogRecord) -> str:
    """The exception of a record, if it has one, in lines."""
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return ""
    if record.name.startswith(WORDED):
        return "".join(traceback.format_exception(error)).rstrip()
    lines: list[str] = []
    met: set[int] = set()
    while error is not None and id(error) not in met:
        met.add(id(error))
        places = [
            f"{place.filename}:{place.lineno} {place.name}" for place in traceback.extract_tb(error.__traceback__)
        ]
        lines.append(f"{type(error).__module__}.{type(error).__qualname__} at {' > '.join(places) or 'no place'}")
        error = error.__cause__ or error.__context__
    return "\n".join(lines)
