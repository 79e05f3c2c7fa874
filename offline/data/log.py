"""The interaction log: every interaction the jobs know, in order of arrival, append-only.

The first load sorts by (time, user, item), as the published protocols do; what comes later, from the service's stream
or from files that grew, is appended, whatever its own time says. That is also the order of the live histories in
Redis. Because nothing is ever inserted before an existing row, a closed LIBER partition never changes. An interaction
equal in user, item, time and value to one already held is a repetition and is dropped, so that whatever is delivered
twice changes nothing (docs/decisions/0001).

A log may also carry sampled rows: drawn negatives of implicit feedback (offline/data/negatives.py). They are training
samples and nothing else: nobody did them, so they are in no history, partition, statistic, graph or record.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.contract.events import Interaction
from offline.data.catalogue import DataError
from offline.data.files import read_arrays, write_arrays

_ROW = np.dtype([("user", np.int32), ("item", np.int32), ("value", np.float32), ("time_ms", np.int64)])
_COLUMNS = ("user", "item", "value", "time_ms")


@dataclass(frozen=True, slots=True)
class InteractionLog:
    """Columns of equal length n, and the ids that ``user`` and ``item`` index.

    ``sampled`` [n] marks rows that were drawn, not done. ``stream_mark`` is the last stream entry that was taken over;
    it lies in the same file as the rows, so a crash cannot lose or repeat an entry.
    """

    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    user: npt.NDArray[np.int32]
    item: npt.NDArray[np.int32]
    value: npt.NDArray[np.float32]
    time_ms: npt.NDArray[np.int64]
    sampled: npt.NDArray[np.bool_]
    stream_mark: str = "0-0"

    def __len__(self) -> int:
        return len(self.user)

    @property
    def observed(self) -> npt.NDArray[np.int64]:
        """Rows of what users really did, in order."""
        return np.flatnonzero(~self.sampled)

    @classmethod
    def sorted_by_time(
        cls, rows: Iterable[tuple[str, str, float, int]], user_order: Sequence[str], item_order: Sequence[str]
    ) -> InteractionLog:
        """A log of (user, item, value, time_ms) rows; ids not in the given orders follow in order of appearance."""
        nothing = np.zeros(0, _ROW)
        empty = cls(
            (), (), nothing["user"], nothing["item"], nothing["value"], nothing["time_ms"], np.zeros(0, np.bool_)
        )
        return empty.with_rows(rows, user_order, item_order)[0]

    def with_rows(
        self, rows: Iterable[tuple[str, str, float, int]], user_order: Sequence[str], item_order: Sequence[str]
    ) -> tuple[InteractionLog, int]:
        """This log with the rows of a data set that it does not hold yet, and how many those are.

        What is new is appended in the order (time, user, item), ids in the given orders first; so the same rows in
        another order make the same log.
        """
        users, items = _numbered(self.user_ids, user_order), _numbered(self.item_ids, item_order)
        table = np.fromiter(
            (
                (users.setdefault(user, len(users)), items.setdefault(item, len(items)), value, time_ms)
                for user, item, value, time_ms in rows
            ),
            _ROW,
        )
        table = table[np.lexsort((table["value"], table["item"], table["user"], table["time_ms"]))]
        return self._appended(tuple(users), tuple(items), table, self.stream_mark)

    def extended(self, entries: Sequence[Interaction], stream_mark: str) -> tuple[InteractionLog, int]:
        """This log with streamed interactions appended in stream order, and how many of them were new."""
        users, items = _numbered(self.user_ids), _numbered(self.item_ids)
        table = np.fromiter(
            (
                (
                    users.setdefault(one.user_id, len(users)),
                    items.setdefault(one.item_id, len(items)),
                    one.value,
                    one.time_ms,
                )
                for one in entries
            ),
            _ROW,
        )
        return self._appended(tuple(users), tuple(items), table, stream_mark)

    def _appended(
        self, user_ids: tuple[str, ...], item_ids: tuple[str, ...], table: npt.NDArray[np.void], stream_mark: str
    ) -> tuple[InteractionLog, int]:
        """Rows of ``table`` that are neither held nor repeated in it, appended in its order."""
        held = np.isin(self.user, table["user"]) & ~self.sampled
        known = np.zeros(int(held.sum()), _ROW)
        for name in _COLUMNS:
            known[name] = getattr(self, name)[held]
        fresh = table[_firsts(np.concatenate([known, table]))[len(known) :]]
        log = InteractionLog(
            user_ids,
            item_ids,
            user=np.concatenate([self.user, fresh["user"]]),
            item=np.concatenate([self.item, fresh["item"]]),
            value=np.concatenate([self.value, fresh["value"]]),
            time_ms=np.concatenate([self.time_ms, fresh["time_ms"]]),
            sampled=np.concatenate([self.sampled, np.zeros(len(fresh), np.bool_)]),
            stream_mark=stream_mark,
        )
        return log, len(fresh)

    def with_sampled(self, before: npt.NDArray[np.int64], item: npt.NDArray[np.int32]) -> InteractionLog:
        """This log with drawn negatives of value 0: ``item[n]`` at the user and time of row ``before[n]``, and right
        before that row, so that both see the same past."""
        return replace(
            self,
            user=np.insert(self.user, before, self.user[before]),
            item=np.insert(self.item, before, item),
            value=np.insert(self.value, before, np.float32(0)),
            time_ms=np.insert(self.time_ms, before, self.time_ms[before]),
            sampled=np.insert(self.sampled, before, True),
        )

    def by_user(self) -> UserIndex:
        return UserIndex.of(self)

    def since(self, *, row: int | None = None, time_ms: int | None = None) -> Touched:
        """Users and items with an observed interaction at log row ``row`` or later, that is, which arrived since then;
        or with one of time ``time_ms`` or later."""
        if row is not None and time_ms is None:
            late = np.arange(len(self)) >= row
        elif time_ms is not None and row is None:
            late = self.time_ms >= time_ms
        else:
            raise ValueError("say either row or time_ms")
        mask = late & ~self.sampled
        return Touched(np.unique(self.user[mask]).astype(np.int64), np.unique(self.item[mask]).astype(np.int64))

    def save(self, path: Path) -> None:
        write_arrays(
            path,
            user_ids=np.array(self.user_ids),
            item_ids=np.array(self.item_ids),
            user=self.user,
            item=self.item,
            value=self.value,
            time_ms=self.time_ms,
            sampled=self.sampled,
            stream_mark=np.array(self.stream_mark),
        )

    @classmethod
    def load(cls, path: Path) -> InteractionLog:
        """Inverse of ``save``. A file without the mark of sampled rows, as older versions wrote, holds none."""
        arrays = read_arrays(path)
        if missing := {"user_ids", "item_ids", *_COLUMNS, "stream_mark"} - set(arrays):
            raise DataError(f"{path} lacks {', '.join(sorted(missing))}")
        return cls(
            tuple(arrays["user_ids"].tolist()),
            tuple(arrays["item_ids"].tolist()),
            user=arrays["user"],
            item=arrays["item"],
            value=arrays["value"],
            time_ms=arrays["time_ms"],
            sampled=arrays.get("sampled", np.zeros(len(arrays["user"]), np.bool_)),
            stream_mark=str(arrays["stream_mark"]),
        )


@dataclass(frozen=True, slots=True)
class Touched:
    """Indices of users and of items, rising."""

    users: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class UserIndex:
    """Observed log rows grouped by user. ``rows[start[u]:start[u + 1]]`` are user u's rows in log order.

    ``position[r]`` is how many earlier observed rows the user of row r has, for every log row: a sampled row has the
    same past as the row that it was drawn for.
    """

    rows: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]

    @classmethod
    def of(cls, log: InteractionLog) -> UserIndex:
        order = np.argsort(log.user, kind="stable")
        observed = ~log.sampled[order]
        counts = np.bincount(log.user[~log.sampled], minlength=len(log.user_ids))
        start = np.concatenate([[0], np.cumsum(counts)])
        position = np.empty(len(log), np.int64)
        position[order] = np.cumsum(observed) - observed - start[log.user[order]]
        return cls(order[observed], start, position)

    def of_user(self, user: int) -> npt.NDArray[np.int64]:
        """Observed log rows of one user, in order."""
        return self.rows[self.start[user] : self.start[user + 1]]


def _firsts(table: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    """Which rows are the first of their kind."""
    order = np.lexsort([table[name] for name in _COLUMNS])  # stable, so of equal rows the first comes first
    ordered = table[order]
    firsts = np.ones(len(table), np.bool_)
    firsts[order[1:]] = ordered[1:] != ordered[:-1]
    return firsts


def _numbered(held: Sequence[str], order: Sequence[str] = ()) -> dict[str, int]:
    """Numbers of ids: those held keep theirs, the others follow in the given order."""
    return {name: at for at, name in enumerate(dict.fromkeys([*held, *order]))}
