"""The interaction log on disk (docs/decisions/0017): Parquet files that never change, and ``log.json`` that names them.

    rows-*     part, arrival, user, item, value, time_ms, sampled    sorted by part, user, arrival
    users-*    part, number, id                                      sorted by part, number
    items-*    part, number, id

An id is bytes of its own length (UTF-8; a lone surrogate is three bytes), so it is given back exactly. ``part`` is the
upper 16 bits of the id's hash, of a row: of its user's, so that a reader of some parts skips the others. A file holds
what lies between the end of the file before it and its own, and its name a digest of that. New rows make a new file,
which takes in those before it that are less than twice as long: there are about log2(n) of them at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
from xxhash import xxh3_64_intdigest, xxh3_128

from models.contract.arrays import IntArray
from offline.data.catalogue import DataError
from offline.data.delimited import first_line
from offline.data.files import read_arrays, read_json, write_json, write_parquet
from offline.data.log import COLUMNS, MANIFEST, InteractionLog, former_file

_FORM = 1
_PARTS = 1 << 16
_GROUP = 1 << 16
"""Rows of a row group, of which a reader of a part takes all or nothing."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class LogPart:
    """The users of some hashes with all their rows. ``log`` numbers these users and their items anew; ``users``,
    ``items`` and ``rows`` are the numbers that they have in the whole log, rising."""

    log: InteractionLog
    users: IntArray
    items: IntArray
    rows: IntArray


def save(log: InteractionLog, folder: Path) -> None:
    """Replace the log in ``folder``, atomically and durably: the manifest is written last. Files whose content is the
    log's own stay, so an append writes about as much as it appends."""
    before = _manifest(folder) if (folder / MANIFEST).is_file() else {}
    manifest: dict[str, Any] = {"form": _FORM, "stream_mark": log.stream_mark}
    if log.stream:
        manifest["stream"] = log.stream
    if log.part_ends is not None:
        manifest["part_ends"] = list(log.part_ends)
    if log.streamed is not None:
        manifest["streamed"] = [list(rows) for rows in log.streamed]
    if log.closings:
        manifest["closings"] = [list(closing) for closing in log.closings]
    if log.settings is not None:
        manifest["settings"] = dict(log.settings)
    tables = _tables(log)
    reusable = {name: _matching(table, folder, name, before.get(name, [])) for name, table in tables.items()}
    # The part of a row is that of its user's id, which the rows themselves do not tell.
    known = reusable["users"][-1][0] if reusable["users"] else 0
    reusable["rows"] = [file for file in reusable["rows"] if log.user[: file[0]].max(initial=-1) < known]
    for name, table in tables.items():
        manifest[name] = _written(table, folder, name, reusable[name])
    if manifest != before:
        write_json(folder / MANIFEST, manifest)
    named = {folder / MANIFEST, *(path for name in tables for path in _paths(folder, manifest, name))}
    for path in set(folder.iterdir()) - named:  # taken in by others, or left by a run that was killed
        if path.is_file():
            path.unlink()
    if (former := former_file(folder)).is_file():  # a folder of that name is the log itself
        former.unlink()


def load(folder: Path) -> InteractionLog:
    """The whole log. DataError if it is absent or damaged."""
    if (folder / MANIFEST).is_file():
        return _read(folder, _whole)
    if former_file(folder).is_file():
        return _load_former(former_file(folder))
    raise DataError("no interactions yet: run `refresh` or `knowledge` first")


def read_parts(folder: Path, count: int) -> Iterator[LogPart]:
    """The log in ``count`` parts by hash of user, at most 65,536. Each is read when it is asked for, and is
    of that moment: a user's rows are whole, those of two users may be of two moments."""
    for first, end in pairwise(_PARTS * at // count for at in range(count + 1)):
        yield _read(folder, partial(_part, within=(pl.col("part") >= first) & (pl.col("part") < end)))


@dataclass(frozen=True, slots=True)
class _Rows:
    """The table of rows: how long it is, a digest of some of them, and what a file of them holds."""

    log: InteractionLog

    def __len__(self) -> int:
        return len(self.log)

    def digest(self, first: int, end: int) -> str:
        hash_ = xxh3_128()
        for name in COLUMNS:
            hash_.update(np.ascontiguousarray(getattr(self.log, name)[first:end]).data)
        return hash_.hexdigest()

    def frame(self, first: int, end: int) -> pl.DataFrame:
        columns = {name: getattr(self.log, name)[first:end] for name in COLUMNS}
        users = np.flatnonzero(np.bincount(columns["user"]))
        parts = np.zeros(len(self.log.user_ids), np.int32)
        parts[users] = [_part_of(self.log.user_ids[user]) for user in users.tolist()]
        rank = np.zeros(len(parts), np.int32)
        rank[users[np.lexsort((users, parts[users]))]] = np.arange(len(users))
        order = np.argsort(rank[columns["user"]], kind="stable")
        arranged = {name: column[order] for name, column in columns.items()}
        return pl.DataFrame({"part": parts[arranged["user"]], "arrival": first + order, **arranged})


@dataclass(frozen=True, slots=True)
class _Ids:
    """The table of users or of items, likewise."""

    ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.ids)

    def digest(self, first: int, end: int) -> str:
        hash_ = xxh3_128()
        for at in range(first, end, _GROUP):
            encoded = [_encoded(name) for name in self.ids[at : min(at + _GROUP, end)]]
            hash_.update(np.fromiter(map(len, encoded), np.int64, len(encoded)).data)
            hash_.update(b"".join(encoded))
        return hash_.hexdigest()

    def frame(self, first: int, end: int) -> pl.DataFrame:
        ids = self.ids[first:end]
        columns = {
            "part": pl.Series([_part_of(name) for name in ids], dtype=pl.Int32),
            "number": np.arange(first, end),
            "id": pl.Series([_encoded(name) for name in ids], dtype=pl.Binary),
        }
        return pl.DataFrame(columns).sort("part", "number")


def _tables(log: InteractionLog) -> dict[str, _Rows | _Ids]:
    return {"rows": _Rows(log), "users": _Ids(log.user_ids), "items": _Ids(log.item_ids)}


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _part_of(name: str) -> int:
    return xxh3_64_intdigest(_encoded(name)) >> 48


def _matching(table: _Rows | _Ids, folder: Path, name: str, before: Sequence[tuple[int, str]]) -> list[list[Any]]:
    """The first of the files [end, digest] that a table had ``before``, as far as they are there and hold its rows."""
    files: list[list[Any]] = []
    first = 0
    for end, digest in before:
        file = [end, digest]
        (path,) = _paths(folder, {name: [file]}, name)
        if end > len(table) or table.digest(first, end) != digest or not path.is_file():
            break
        files.append(file)
        first = end
    return files


def _written(table: _Rows | _Ids, folder: Path, name: str, reusable: Sequence[list[Any]]) -> list[list[Any]]:
    """The files [end, digest] of a table, of which at most one is new; an empty one has a file of no rows."""
    files = list(reusable)
    first = files[-1][0] if files else 0
    if first < len(table) or not files:
        while files and 2 * (len(table) - first) > first - (files[-2][0] if len(files) > 1 else 0):
            files.pop()
            first = files[-1][0] if files else 0
        files.append([len(table), table.digest(first, len(table))])
        write_parquet(_paths(folder, {name: files}, name)[-1], table.frame(first, len(table)), _GROUP)
    return files


def _paths(folder: Path, manifest: Mapping[str, Any], name: str) -> list[Path]:
    return [folder / f"{name}-{end}-{digest}.parquet" for end, digest in manifest[name]]


def _manifest(folder: Path) -> dict[str, Any]:
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("form") != _FORM:
        raise DataError(f"{folder / MANIFEST} cannot be read: it is no log of form {_FORM}")
    return manifest


def _read(folder: Path, take: Callable[[Path, Mapping[str, Any]], _T]) -> _T:
    """The result of ``take`` on a folder and its manifest; once more if a job replaced the files under its hands."""
    manifest = _manifest(folder)
    while True:
        try:
            return take(folder, manifest)
        except (OSError, ValueError, TypeError, KeyError, pl.exceptions.PolarsError) as error:
            newer = _manifest(folder)
            if newer == manifest:
                raise DataError(f"the log {folder} cannot be read: {first_line(error)}") from error
            manifest = newer


def _whole(folder: Path, manifest: Mapping[str, Any]) -> InteractionLog:
    rows = _scan(folder, manifest, "rows").sort("arrival").collect()
    users, items = (_scan(folder, manifest, name).sort("number").collect() for name in ("users", "items"))
    log = replace(_log(users, items, rows, str(manifest["stream_mark"])), stream=str(manifest.get("stream", "")))
    if "part_ends" in manifest:
        train, validation, test = manifest["part_ends"]
        log = replace(log, part_ends=(train, validation, test))
    nothing: list[list[int]] | None = [] if log.stream_mark == "0-0" else None  # earlier versions noted neither
    streamed = manifest.get("streamed", nothing)
    noted = None if streamed is None else tuple((first, end) for first, end in streamed)
    closings = tuple((user, row) for user, row in manifest.get("closings", []))
    log = replace(log, streamed=noted, settings=manifest.get("settings"), closings=closings)
    for name, table in _tables(log).items():
        first = 0
        for path, (end, digest) in zip(_paths(folder, manifest, name), manifest[name], strict=True):
            if table.digest(first, end) != digest:
                raise DataError(f"{path.name} is damaged")
            first = end
    return log


def _part(folder: Path, manifest: Mapping[str, Any], within: pl.Expr) -> LogPart:
    rows = _scan(folder, manifest, "rows").filter(within).sort("arrival").collect()
    users = _scan(folder, manifest, "users").filter(within).sort("number").collect()
    of_rows = pl.col("number").is_in(rows["item"].unique().cast(pl.Int64).implode())
    items = _scan(folder, manifest, "items").filter(of_rows).sort("number").collect()
    numbers = {name: frame["number"].to_numpy() for name, frame in (("user", users), ("item", items))}
    local = [
        pl.Series(name, np.searchsorted(known, rows[name].to_numpy()), pl.Int32) for name, known in numbers.items()
    ]
    for column in local:
        known = numbers[column.name]
        if not np.isin(rows[column.name].to_numpy(), known).all():
            raise DataError(f"the log {folder} is damaged: rows of a part name ids of another one")
    log = _log(users, items, rows.with_columns(local), str(manifest["stream_mark"]))
    return LogPart(log, numbers["user"], numbers["item"], rows["arrival"].to_numpy())


def _scan(folder: Path, manifest: Mapping[str, Any], name: str) -> pl.LazyFrame:
    return pl.scan_parquet(_paths(folder, manifest, name), glob=False, hive_partitioning=False)


def _log(users: pl.DataFrame, items: pl.DataFrame, rows: pl.DataFrame, stream_mark: str) -> InteractionLog:
    user_ids, item_ids = (
        tuple(name.decode("utf-8", "surrogatepass") for name in frame["id"].to_list()) for frame in (users, items)
    )
    columns = {name: rows[name].to_numpy(writable=True) for name in COLUMNS}
    return InteractionLog.of(user_ids, item_ids, columns, stream_mark)


def _load_former(path: Path) -> InteractionLog:
    """A log of an earlier version; one without the mark of sampled rows holds none."""
    arrays = read_arrays(path)
    arrays.setdefault("sampled", np.zeros(len(arrays.get("user", ())), np.bool_))
    if missing := {"user_ids", "item_ids", *COLUMNS, "stream_mark"} - set(arrays):
        raise DataError(f"{path} lacks {', '.join(sorted(missing))}")
    user_ids, item_ids = (tuple(arrays[name].tolist()) for name in ("user_ids", "item_ids"))
    log = InteractionLog.of(user_ids, item_ids, arrays, str(arrays["stream_mark"]))
    return log if log.stream_mark == "0-0" else replace(log, streamed=None)
