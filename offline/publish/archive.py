"""Exposures and interactions out of their capped Redis streams into Parquet files, each entry once.

FOLDER/exposures/part-FIRST.parquet and FOLDER/interactions/part-FIRST.parquet are named by their first stream entry.
A part is written before the mark that says so: a run that was stopped between the two writes the same name again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from models.contract.events import Interaction
from models.contract.exposures import Exposure
from models.contract.ids import is_nobody
from offline.data.arrival import Forbids
from offline.data.files import read_json, write_json, write_parquet
from offline.publish.connection import Store
from offline.publish.streams import PAGE, entries, installation_of

EXPOSURES = {
    "request_id": pl.String, "user_id": pl.String, "unit": pl.String, "time_ms": pl.Int64, "release": pl.String,
    "layers": pl.List(pl.String), "experiments": pl.List(pl.String), "arms": pl.List(pl.String),
    "hows": pl.List(pl.String), "splits": pl.List(pl.String), "held_out": pl.Boolean, "knowledge": pl.Boolean,
    "degraded": pl.List(pl.String), "latency_ms": pl.Float64, "candidates": pl.Int64, "items": pl.List(pl.String),
    "scores": pl.List(pl.Float64), "shadow_arm": pl.String, "shadow": pl.List(pl.Float64),
    "propensities": pl.List(pl.Float64), "teams": pl.List(pl.String), "context": pl.String,
    "item_features": pl.String, "history_events": pl.Int64, "history_digest": pl.String,
    "unshown": pl.List(pl.String), "unshown_scores": pl.List(pl.Float64), "unshown_shadow": pl.List(pl.Float64),
}  # fmt: skip
"""Columns of exposures. ``shadow``, ``propensities``, ``teams`` and ``unshown`` columns are null where an exposure has
none, and in parts that were written before there was such a column."""

INTERACTIONS = {
    "request_id": pl.String, "unit": pl.String, "item": pl.String, "type": pl.String, "value": pl.Float64,
    "time_ms": pl.Int64,
}  # fmt: skip

USER_COLUMNS = ("user_id", "unit")
"""Columns whose values are users, or units that may be."""

_ADDED_AND_BEHIND = """
if redis.call('EXISTS', KEYS[1]) == 0 then return {0, 0} end
local info, added = redis.call('XINFO', 'STREAM', KEYS[1]), -1
for at = 1, #info, 2 do if info[at] == 'entries-added' then added = info[at + 1] end end
return {added, #redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])}
"""
"""How many entries a stream ever got, -1 if Redis does not count them, and how many of them come after a mark."""

_ROWS = 200_000
"""Rows of one part at most."""


@dataclass(frozen=True, slots=True)
class Archived:
    """Counts of what a run took from a stream. ``lost`` entries were trimmed before anybody read them; ``refused``
    were not understood; entries ``of_nobody`` were left out, which earlier services took for a unit's."""

    added: int
    refused: int
    lost: int
    of_nobody: int = 0


def archive(store: Store, folder: Path, nobody: Collection[str], forbids: Forbids | None = None) -> dict[str, Archived]:
    """Append what is new in both streams, without what units or items of ``nobody`` left there, and without what
    ``forbids`` says of."""
    exposures = _Stream(store, store.keys.exposures, folder / "exposures", EXPOSURES, _exposure, nobody, forbids)
    interactions = _Stream(
        store, store.keys.interactions, folder / "interactions", INTERACTIONS, _interaction, nobody, forbids
    )
    return {"exposures": exposures.drain(), "interactions": interactions.drain()}


def add_interactions(folder: Path, frame: pl.DataFrame) -> None:
    """Interactions from before the streams, with the columns of ``INTERACTIONS``; again, it replaces them."""
    write_parquet(folder / "interactions" / "part-0-0.parquet", frame.select(list(INTERACTIONS)))


def read_exposures(folder: Path) -> pl.DataFrame:
    """All archived exposures, in the order of the stream, without repetitions of a request."""
    return _read(folder / "exposures", EXPOSURES).unique("request_id", keep="first", maintain_order=True)


def of_experiment(exposures: pl.DataFrame, experiment: str) -> pl.DataFrame:
    """Exposures of units that are in an arm of ``experiment``, with the columns ``arm``, ``how`` and ``split``."""
    none = pl.col("arms").list.eval(pl.lit(None, pl.String))  # in parts that were written before there were splits
    whole = exposures.with_columns(pl.col("splits").fill_null(none))
    taken = whole.explode("layers", "experiments", "arms", "hows", "splits").filter(pl.col("experiments") == experiment)
    return taken.rename({"arms": "arm", "hows": "how", "splits": "split"}).drop("layers", "experiments")


def read_interactions(folder: Path) -> pl.DataFrame:
    """All archived interactions, in the order of the stream."""
    return _read(folder / "interactions", INTERACTIONS)


@dataclass(frozen=True, slots=True)
class _Stream:
    store: Store
    key: str
    folder: Path
    columns: Mapping[str, Any]
    row: Callable[[Mapping[Any, Any]], dict[str, Any]]
    nobody: Collection[str]
    forbids: Forbids | None

    def drain(self) -> Archived:
        path = self.folder / "mark.json"
        state = read_json(path) if path.is_file() else {}
        installation = installation_of(self.store) or str(None)
        if state.get("installation") != installation:  # another server, whose entries have other ids
            state = {}
        mark, known = state.get("mark", "0-0"), state.get("entries", 0)
        added = refused = of_nobody = read = 0
        rows: list[dict[str, Any]] = []
        first = ""
        for entry, fields in entries(self.store, self.key, mark):
            mark, read = entry, read + 1
            first = first or entry
            try:
                row = self.row(fields)
            except ValueError:
                refused += 1
                continue
            if any(is_nobody(row[name], self.nobody) for name in ("unit", "item") if name in row):
                of_nobody += 1
                continue
            if self.forbids is not None and any(
                self.forbids(row[name], row["time_ms"]) for name in USER_COLUMNS if name in row
            ):
                continue
            rows.append(row)
            if len(rows) == _ROWS:
                added += self._write(first, rows)
                rows, first = [], ""
        added += self._write(first, rows)
        until = self._entries_until(mark)
        lost = 0 if known is None or until is None else max(0, until - known - read)
        write_json(path, {"installation": installation, "mark": mark, "entries": until})
        return Archived(added, refused, lost, of_nobody)

    def _entries_until(self, mark: str) -> int | None:
        """How many entries were ever added up to ``mark``; None if that cannot be told."""
        counts: Any = self.store.redis.eval(_ADDED_AND_BEHIND, 1, self.key, f"({mark}", PAGE)
        added, behind = counts
        return None if added < 0 or behind == PAGE else int(added) - int(behind)

    def _write(self, first: str, rows: list[dict[str, Any]]) -> int:
        if rows:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_parquet(self.folder / f"part-{first}.parquet", pl.DataFrame(rows, schema=dict(self.columns)))
        return len(rows)


def _exposure(fields: Mapping[Any, Any]) -> dict[str, Any]:
    exposure = Exposure.from_stream(fields)
    plain = exposure.model_dump(include=set(EXPOSURES) - {"arms", "context", "item_features"})
    for name in ("shadow", "propensities", "teams", "unshown", "unshown_scores", "unshown_shadow"):
        plain[name] = plain[name] or None
    return plain | {
        **{f"{name}s": [getattr(arm, name) for arm in exposure.arms] for name in ("layer", "experiment", "arm", "how")},
        "splits": [json.dumps(dict(arm.split)) for arm in exposure.arms],
        "context": json.dumps(exposure.context, sort_keys=True),
        "item_features": json.dumps(exposure.item_features, sort_keys=True),
    }


def _interaction(fields: Mapping[Any, Any]) -> dict[str, Any]:
    columns = {"user_id": "unit", "item_id": "item"}
    return {columns.get(name, name): value for name, value in Interaction.from_stream(fields).model_dump().items()}


def _read(folder: Path, columns: Mapping[str, Any]) -> pl.DataFrame:
    parts = sorted(folder.glob("part-*.parquet"), key=lambda path: [int(part) for part in path.stem.split("-")[1:]])
    if not parts:
        return pl.DataFrame(schema=dict(columns))
    return pl.scan_parquet(parts, schema=dict(columns), missing_columns="insert", extra_columns="ignore").collect()
