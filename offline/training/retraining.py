"""The retraining list: how many users were forgotten since the last training, whose rows the models were trained on.

Nothing trains because of it: models are aggregates, and the next training, whenever it comes, is without them.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from offline.data.catalogue import DataError
from offline.data.files import read_json, write_json
from offline.data.rules import counted

RETRAINING_FILE = "retraining.json"
"""Inside a work folder."""


@dataclass(frozen=True, slots=True)
class Retraining:
    """``users`` and ``rows`` that were removed since the last training, the first of them at ``first_ms`` (unix)."""

    users: int = 0
    rows: int = 0
    first_ms: int = 0

    def with_removed(self, users: int, rows: int) -> Retraining:
        first_ms = self.first_ms or time.time_ns() // 1_000_000
        return Retraining(self.users + users, self.rows + rows, first_ms) if users else self

    @property
    def line(self) -> str:
        """For people; "" if nobody was forgotten."""
        if not self.users:
            return ""
        since = datetime.fromtimestamp(self.first_ms / 1000, UTC)
        return (
            f"{counted(self.users, 'user')} with {counted(self.rows, 'interaction')} forgotten since "
            f"{since:%Y-%m-%d %H:%M} UTC; models, codebooks and projections are of before, `train --retrain` makes "
            "models without them"
        )

    def save(self, folder: Path) -> None:
        write_json(folder / RETRAINING_FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> Retraining:
        """The list in a folder; empty without a file. DataError if it is damaged."""
        path = folder / RETRAINING_FILE
        try:
            return cls(**read_json(path)) if path.is_file() else cls()
        except TypeError as error:
            raise DataError(f"{path} is of another version: {error}") from error

    @staticmethod
    def clear(folder: Path) -> None:
        """After a training."""
        (folder / RETRAINING_FILE).unlink(missing_ok=True)
