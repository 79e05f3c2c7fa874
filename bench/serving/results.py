"""Results of the parts of a benchmark, one JSON file each, so that a killed run goes on where it was."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from offline.data.files import write_bytes

FOLDER = Path("var/bench")

Numbers = dict[str, Any]
"""A document of what a part measured, as its own module knows it."""


class Result(BaseModel):
    """Numbers of a part, when and in which effort they were measured, how long that took, and of which commit;
    uncommitted changes make it end in "+"."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    part: str
    commit: str
    effort: str
    at: float
    seconds: float
    numbers: Numbers = Field(alias="found")


def load_result(part: str, folder: Path = FOLDER) -> Result | None:
    path = folder / f"{part}.json"
    return Result.model_validate_json(path.read_bytes()) if path.exists() else None


def save_result(part: str, effort: str, seconds: float, numbers: Numbers, folder: Path = FOLDER) -> Result:
    result = Result(part=part, commit=commit(), effort=effort, at=time.time(), seconds=seconds, found=numbers)
    write_bytes(folder / f"{part}.json", (json.dumps(result.model_dump(by_alias=True), indent=1) + "\n").encode())
    return result


def commit(*more: str) -> str:
    """The last commit that touched what is measured or what measures, in ``more`` folders, too; "unknown" outside a
    repository."""
    code = ("--", "service", "models", "offline", "bench", *more)
    try:
        name = _git("log", "-1", "--format=%h", "--abbrev=12", *code)
        return name + ("+" if _git("status", "--porcelain", *code) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()
