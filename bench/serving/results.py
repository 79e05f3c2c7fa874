"""Results of the parts of a benchmark, one JSON file each, so that a killed run goes on where it was."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from offline.data.files import write_bytes

FOLDER = Path("var/bench")


class Result(BaseModel):
    """What a part measured, when, in which effort, how long that took and of which commit; what was not committed
    makes the commit end in "+"."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    part: str
    commit: str
    effort: str
    at: float
    seconds: float
    found: dict[str, Any]


def held(part: str, folder: Path = FOLDER) -> Result | None:
    path = folder / f"{part}.json"
    return Result.model_validate_json(path.read_bytes()) if path.exists() else None


def keep(part: str, effort: str, seconds: float, found: dict[str, Any], folder: Path = FOLDER) -> Result:
    result = Result(part=part, commit=commit(), effort=effort, at=time.time(), seconds=seconds, found=found)
    write_bytes(folder / f"{part}.json", (json.dumps(result.model_dump(), indent=1) + "\n").encode())
    return result


def commit() -> str:
    """The last commit that touched what is measured or what measures; "unknown" outside a repository."""
    code = ("--", "service", "models", "offline", "bench")
    try:
        name = _git("log", "-1", "--format=%h", "--abbrev=12", *code)
        return name + ("+" if _git("status", "--porcelain", *code) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout.strip()
