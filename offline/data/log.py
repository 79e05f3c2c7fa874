"""The interaction log: every interaction the jobs know, in order of arrival, append-only.

The first load sorts by (time, user, item), as the published protocols do; interactions that the service streams
later are appended in stream order. That is also the order of the live histories in Redis. Because nothing is ever
inserted before an existing row, a closed LIBER partition never changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.contract.events import Interaction
from offline.data.catalogue import DataError
from offline.data.files import read_arrays, write_arrays


@dataclass(frozen=True, slots=True)
class InteractionLog:
    """Columns of equal length n, and the ids that ``user`` and ``item`` index.

    ``stream_mark`` is the last stream entry that was taken over; it lies in the same file as the rows, so a crash
    cannot lose or repeat an entry.
    """

    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    user: npt.NDArray[np.int32]
    item: npt.NDArray[np.int32]
    value: npt.NDArray[np.float32]
    time_ms: npt.NDArray[np.int64]
    stream_mark: str = "0-0"

    def __len__(self) -> int:
        return len(self.user)

    @classmethod
    def sorted_by_time(
        cls, rows: Iterable[tuple[str, str, float, int]], user_order: Sequence[str], item_order: Sequence[str]
    ) -> InteractionLog:
        """A log of (user, item, value, time_ms) rows; ids not in the given orders follow in order of appearance."""
        users = {user: at for at, user in enumerate(user_order)}
        items = {item: at for at, item in enumerate(item_order)}
        columns = [
            (users.setdefault(user, len(users)), items.setdefault(item, len(items)), value, time_ms)
            for user, item, value, time_ms in rows
        ]
        table = np.array(
            columns, dtype=[("user", np.int32), ("item", np.int32), ("value", np.float32), ("time_ms", np.int64)]
        )
        table = table[np.lexsort((table["item"], table["user"], table["time_ms"]))]
        return cls(
            tuple(users),
            tuple(items),
            table["user"].copy(),
            table["item"].copy(),
            table["value"].copy(),
            table["time_ms"].copy(),
        )

    def extended(self, entries: Sequence[Interaction], stream_mark: str) -> tuple[InteractionLog, int]:
        """This log with streamed interactions appended, and how many of them were new.

        An interaction equal in user, item, time and value to one already held is a repetition and is dropped.
        """
        users = {user: at for at, user in enumerate(self.user_ids)}
        items = {item: at for at, item in enumerate(self.item_ids)}
        streamed_users = {users[one.user_id] for one in entries if one.user_id in users}
        mask = np.isin(self.user, np.fromiter(streamed_users, np.int32, len(streamed_users)))
        seen = set(
            zip(
                self.user[mask].tolist(),
                self.item[mask].tolist(),
                self.time_ms[mask].tolist(),
                self.value[mask].tolist(),
                strict=True,
            )
        )
        added: list[tuple[int, int, int, float]] = []
        for one in entries:
            user = users.setdefault(one.user_id, len(users))
            item = items.setdefault(one.item_id, len(items))
            row = (user, item, one.time_ms, float(np.float32(one.value)))
            if row not in seen:
                seen.add(row)
                added.append(row)
        fresh = np.array(added, dtype=np.float64).reshape(len(added), 4)
        return (
            InteractionLog(
                tuple(users),
                tuple(items),
                np.concatenate([self.user, fresh[:, 0].astype(np.int32)]),
                np.concatenate([self.item, fresh[:, 1].astype(np.int32)]),
                np.concatenate([self.value, fresh[:, 3].astype(np.float32)]),
                np.concatenate([self.time_ms, fresh[:, 2].astype(np.int64)]),
                stream_mark,
            ),
            len(added),
        )

    def by_user(self) -> UserIndex:
        return UserIndex.of(self)

    def save(self, path: Path) -> None:
        write_arrays(
            path,
            user_ids=np.array(self.user_ids),
            item_ids=np.array(self.item_ids),
            user=self.user,
            item=self.item,
            value=self.value,
            time_ms=self.time_ms,
            stream_mark=np.array(self.stream_mark),
        )

    @classmethod
    def load(cls, path: Path) -> InteractionLog:
        arrays = read_arrays(path)
        if missing := {"user_ids", "item_ids", "user", "item", "value", "time_ms", "stream_mark"} - set(arrays):
            raise DataError(f"{path} lacks {', '.join(sorted(missing))}")
        return cls(
            tuple(arrays["user_ids"].tolist()),
            tuple(arrays["item_ids"].tolist()),
            arrays["user"],
            arrays["item"],
            arrays["value"],
            arrays["time_ms"],
            str(arrays["stream_mark"]),
        )


@dataclass(frozen=True, slots=True)
class UserIndex:
    """Log rows grouped by user. ``rows[start[u]:start[u + 1]]`` are user u's rows in log order;
    ``position[r]`` is how many earlier rows the user of row r has."""

    rows: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]

    @classmethod
    def of(cls, log: InteractionLog) -> UserIndex:
        rows = np.argsort(log.user, kind="stable")
        counts = np.bincount(log.user, minlength=len(log.user_ids))
        start = np.concatenate([[0], np.cumsum(counts)])
        position = np.empty(len(log), np.int64)
        position[rows] = np.arange(len(log)) - start[log.user[rows]]
        return cls(rows, start, position)

    def of_user(self, user: int) -> npt.NDArray[np.int64]:
        """Log rows of one user, in order."""
        return self.rows[self.start[user] : self.start[user + 1]]
