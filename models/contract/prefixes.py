"""Where a configuration lies: its key prefix, and its own folders beside those of others.

Configurations may share a server and a data folder, and do not meet there: each name has a prefix, and each prefix a
folder of its own below that of the artifacts and below that of the embedded Redis.
"""

from __future__ import annotations

import re
from pathlib import Path

FORMER_PREFIX = "lorank"
"""The prefix that earlier versions had for every configuration. What lies under it has the shared folders to itself."""

_OF_A_NAME = re.compile(rf"{FORMER_PREFIX}:([A-Za-z0-9_-]{{1,40}})")
_OF_A_PREFIX = "prefix="


def prefix_of(configuration: str) -> str:
    """The key prefix of a configuration's name."""
    return f"{FORMER_PREFIX}:{configuration}"


def own_folder(shared: Path, prefix: str) -> Path:
    """The folder in ``shared`` for what lies under ``prefix``: that of no other prefix."""
    if prefix == FORMER_PREFIX:
        return shared
    named = _OF_A_NAME.fullmatch(prefix)
    return shared / (named[1] if named else f"{_OF_A_PREFIX}{prefix}")


def prefix_in(folder: Path) -> str:
    """The prefix for which ``own_folder`` gives this folder."""
    if folder.name.startswith(_OF_A_PREFIX):
        return folder.name.removeprefix(_OF_A_PREFIX)
    return prefix_of(folder.name)
