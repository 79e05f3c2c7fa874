"""A job's configuration written as TOML, for jobs that run as processes of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_config(document: Mapping[str, Any], path: Path) -> None:
    """Each top-level setting on one line."""
    path.write_text("".join(f"{name} = {_toml(value)}\n" for name, value in document.items()))


def _toml(value: Any) -> str:
    """A value on one line; TOML has no null."""
    if isinstance(value, dict):
        entries = ((name, entry) for name, entry in value.items() if entry is not None)
        return "{ " + ", ".join(f"{json.dumps(name)} = {_toml(entry)}" for name, entry in entries) + " }"
    return f"[{', '.join(map(_toml, value))}]" if isinstance(value, list) else json.dumps(value)
