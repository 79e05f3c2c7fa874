"""What a test session must not leave behind: processes that work in its temporary folders, such as a Valkey server or a
service."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PATIENCE_SECONDS = 60.0
"""How long a process may need to end after the last test."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """A process that lives, and the folder that shows whose it is."""

    process: int
    command: str
    folder: str

    def __str__(self) -> str:
        return f"process {self.process} in {self.folder}: {self.command}"


def leftovers(folder: Path) -> list[Leftover]:
    """Processes whose working folder, an argument or LORANK_DATA_DIR lies beneath ``folder``, also if it was deleted;
    without this process and those that started it."""
    own = _ancestry()
    processes = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    seen = (_leftover(process, f"{folder}/") for process in processes if process not in own)
    return [leftover for leftover in seen if leftover is not None]


def _leftover(process: int, beginning: str) -> Leftover | None:
    """The process, if a folder of its begins so. Zombies have none any more."""
    proc = Path(f"/proc/{process}")
    try:
        words = os.fsdecode((proc / "cmdline").read_bytes()).rstrip("\0").split("\0")
        variables = os.fsdecode((proc / "environ").read_bytes()).split("\0")
        working = os.readlink(proc / "cwd")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    data = [text.removeprefix("LORANK_DATA_DIR=") for text in variables if text.startswith("LORANK_DATA_DIR=")]
    for candidate in (working, *data, *words):
        if candidate.startswith(beginning):
            return Leftover(process, " ".join(words), candidate)
    return None


def _ancestry() -> set[int]:
    """This process, its parent, and so on."""
    process, own = os.getpid(), {0}
    while process not in own:
        own.add(process)
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return own


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fails the session, and each worker of ``pytest -n`` for itself, if a process is left.

    Being used by every test, it is set up before all other fixtures and checks when they are gone.
    """
    folder = tmp_path_factory.getbasetemp()
    yield
    until = time.monotonic() + PATIENCE_SECONDS
    while left := leftovers(folder):
        if time.monotonic() >= until:
            pytest.fail("the tests left behind " + "; ".join(map(str, left)), pytrace=False)
        time.sleep(0.05)
