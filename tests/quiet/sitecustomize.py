"""Loaded by every Python process that has this folder in PYTHONPATH, before its program: writes down what it does.

One line of JSON per act into the file that ACTS names: connections and look-ups of names outside this machine, files
opened for writing and folders made below FORBIDDEN (a colon between paths), and imports of onnxruntime with the
variable that decides over its telemetry.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

_LOCAL = ("127.", "::1", "localhost", "0.0.0.0")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_acts = os.open(os.environ["ACTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
_forbidden = tuple(os.environ["FORBIDDEN"].split(":"))


def _detail(event: str, arguments: tuple[Any, ...]) -> str | None:
    """What is worth a line about an event of Python's audit hooks."""
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = str(arguments[1][0])
        return None if host.startswith(_LOCAL) else host
    if event == "socket.getaddrinfo":
        host = arguments[0].decode() if isinstance(arguments[0], bytes) else str(arguments[0] or "localhost")
        return None if host.startswith(_LOCAL) else host
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES:
        return _below(arguments[0])
    if event == "os.mkdir":
        return _below(arguments[0])
    if event == "import" and arguments[0] == "onnxruntime":
        return os.environ.get("ORT_DISABLE_TELEMETRY", "unset")
    return None


def _below(path: object) -> str | None:
    text = os.fsdecode(path) if isinstance(path, str | bytes) else ""
    return text if text.startswith(_forbidden) else None


def _record(event: str, arguments: tuple[Any, ...]) -> None:
    detail = _detail(event, arguments)
    if detail is not None:
        line = {"event": event, "detail": detail, "program": " ".join(sys.orig_argv[1:4])}
        os.write(_acts, (json.dumps(line) + "\n").encode())


sys.addaudithook(_record)
