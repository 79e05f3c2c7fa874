"""Parquet archives of exposures and interactions, without rows of users who are forgotten, or that are too old."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from models.contract.requests import Records
from offline.data.catalogue import DataError
from offline.data.files import write_parquet
from offline.data.log import InteractionLog
from offline.forgetting.journal import alone, file_records, half_written
from offline.jobs.steps import Job
from offline.publish.archive import USER_COLUMNS
from offline.publish.connection import Store
from offline.publish.erasure import Removed
from offline.publish.streams import trim_stream

TABLES = ("exposures", "interactions")
_HALF_WRITTEN = "files of killed archive runs, of whomever"
_OF_UNITS = ("unit", "time_ms", "layers", "experiments", "arms", "hows")
"""Columns of an exposure that say something of its unit, whoever the user was."""
_DAY_MS = 86_400_000


def archive_folders(job: Job) -> list[Path]:
    """Folders of archives that there are: of the service's streams, and of the last replay."""
    folders = (job.config.workdir / "exposures", job.config.workdir / "replay" / "exposures")
    return [folder for folder in folders if folder.is_dir()]


def archived_users(job: Job) -> set[str]:
    """All users and units in the archives."""
    users: set[str] = set()
    for path in _parts(job):
        frame = _read(path, USER_COLUMNS)
        for name in frame.columns:
            users.update(frame[name].drop_nulls().unique().to_list())
    return users


def remove_from_archives(job: Job, _: InteractionLog, until_ms: Mapping[str, int], removed: Removed) -> None:
    """Rewrite the parts that have rows of these users until their times (unix ms), as user or as unit, and remove what
    killed runs left half written. LockedError if a job goes on reading the streams."""
    for folder in archive_folders(job):
        with alone(folder):
            for path in half_written(folder):
                path.unlink()
            for table in TABLES:
                for path in (folder / table).glob("part-*.parquet"):
                    frame = _read(path)
                    # A row cannot have arrived after its part was written, whatever time its caller's clock told.
                    happened = pl.min_horizontal(pl.col("time_ms"), pl.lit(path.stat().st_mtime_ns // 1_000_000))
                    names = [name for name in USER_COLUMNS if name in frame.columns]
                    of_user = pl.coalesce(
                        pl.when(_until(name, until_ms) >= happened).then(pl.col(name)) for name in names
                    )
                    users = frame.select(of_user.alias("user"))["user"]
                    removed.update((user, f"archived {table}") for user in users.drop_nulls().to_list())
                    _replace(path, frame, users.is_null())


def archive_records(job: Job, _: InteractionLog, user: str) -> Records:
    """Rows that have a user as user or as unit. Where somebody else came with the user as unit, the row is the other
    one's but for the arms. Names and sizes of files of killed runs, of which nobody can tell whose they are."""
    records: Records = {f"archived {table}": [] for table in TABLES} | {_HALF_WRITTEN: []}
    for folder in archive_folders(job):
        records[_HALF_WRITTEN] += file_records(job, sorted(half_written(folder)))
        place = str(folder.relative_to(job.config.workdir))
        for table in TABLES:
            for path in sorted((folder / table).glob("part-*.parquet")):
                frame = _read(path)
                names = [name for name in USER_COLUMNS if name in frame.columns]
                rows = frame.filter(pl.any_horizontal(pl.col(name) == user for name in names))
                for row in rows.iter_rows(named=True):
                    others = row.get("user_id", user) != user
                    shown = {name: row.get(name) for name in _OF_UNITS} if others else row
                    record = {name: _plain(name, value) for name, value in shown.items() if value is not None}
                    records[f"archived {table}"].append({"archive": place, **record})
    return records


def _plain(name: str, value: Any) -> Any:
    return json.loads(value) if name in ("context", "item_features") else value


def end_exposures(job: Job, store: Store | None) -> int:
    """Remove what is older than ``retention.exposure_days`` from the archives, and from the stream of exposures; how
    many rows. None without that setting."""
    days = job.config.retention.exposure_days
    if days is None:
        return 0
    first_ms, count = round(time.time() * 1000 - days * _DAY_MS), 0
    for folder in archive_folders(job):
        with alone(folder):
            for table in TABLES:
                for path in (folder / table).glob("part-*.parquet"):
                    frame = _read(path)
                    is_young = frame["time_ms"] >= first_ms
                    count += frame.height - int(is_young.sum())
                    _replace(path, frame, is_young)
    if store is not None:
        count += trim_stream(store, store.keys.exposures, first_ms)
    return count


def _parts(job: Job) -> list[Path]:
    folders = [folder / table for folder in archive_folders(job) for table in TABLES]
    return [path for folder in folders for path in folder.glob("part-*.parquet")]


def _read(path: Path, columns: Collection[str] | None = None) -> pl.DataFrame:
    """A part, or those of these columns that it has. DataError if it is damaged."""
    try:
        frame = pl.scan_parquet(path)
        if columns is not None:
            frame = frame.select(name for name in frame.collect_schema().names() if name in columns)
        return frame.collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(
            f"{path} cannot be read, and so nobody can tell whose rows are in it: put back a copy of it, or remove it "
            f"({type(error).__name__})"
        ) from error


def _until(name: str, until_ms: Mapping[str, int]) -> pl.Expr:
    return pl.col(name).replace_strict(dict(until_ms), default=-1, return_dtype=pl.Int64)


def _replace(path: Path, frame: pl.DataFrame, left: pl.Series) -> None:
    """Let a part have those of its rows that are left; a part without any goes."""
    if not left.any():
        path.unlink()
    elif not left.all():
        write_parquet(path, frame.filter(left))
