"""Answers of trained models on disk: their scores in FOLDER/KEY.parquet, the rest in FOLDER/KEY.json.

The description is written last and holds the digest of the table, so that a pair is complete or recognised as broken.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import polars as pl

from models.contract.arrays import FloatArray, IntArray
from offline.data.catalogue import DataError
from offline.data.files import file_digest, read_json, write_json, write_parquet

Family = Literal["ours", "peer", "reference"]
Statistics = Literal["frozen", "live"]

_COLUMNS = {"row": pl.Int64(), "split": pl.Categorical(), "label": pl.Float32(), "score": pl.Float32()}
_DESCRIBED = ("model", "family", "seed", "statistics", "share", "epochs", "ms_per_500", "parameters", "seconds")


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A model trained with one seed, and its scores of n samples.

    ``epochs`` are validation AUCs; ``ms_per_500`` [repeats] milliseconds to score 500 candidates; ``share`` of the
    training rows it was trained with; ``seconds`` of training. ``rows`` [n] are log rows, unique, ``split`` [n] names
    of their splits, ``label`` [n] 0 or 1, ``score`` [n] probabilities. ``circumstances`` is a fingerprint of all that
    the model came from but its seed (configuration, data, code); empty if nobody took one.
    """

    model: str
    family: Family
    seed: int
    statistics: Statistics
    share: float
    epochs: tuple[float, ...]
    ms_per_500: tuple[float, ...]
    parameters: int
    seconds: float
    rows: IntArray
    split: npt.NDArray[np.str_]
    label: FloatArray
    score: FloatArray
    circumstances: str = ""

    def __post_init__(self) -> None:
        """DataError for what could not be judged."""
        if problem := _problem(self):
            raise DataError(f"{self.model}, seed {self.seed}: {problem}")


def save_trained(folder: Path, key: str, trained: Trained) -> None:
    """Replace what is held under ``key``, a file name without ending."""
    columns = (trained.rows, trained.split, trained.label, trained.score)
    frame = pl.DataFrame(dict(zip(_COLUMNS, columns, strict=True)), schema=_COLUMNS)
    described = {name: getattr(trained, name) for name in (*_DESCRIBED, "circumstances")}
    path = folder / f"{key}.parquet"
    write_parquet(path, frame)
    write_json(folder / f"{key}.json", described | {"parquet": file_digest(path)})


def load_trained(folder: Path, key: str) -> Trained:
    """Inverse of ``save_trained``; DataError if something is absent, damaged, or of another training than the rest."""
    described = read_json(folder / f"{key}.json")
    path = folder / f"{key}.parquet"
    if not isinstance(described, dict) or (missing := {*_DESCRIBED, "circumstances", "parquet"} - set(described)):
        lacks = f"lacks {', '.join(sorted(missing))}" if isinstance(described, dict) else "describes no model"
        raise DataError(f"{folder / f'{key}.json'} {lacks}")
    if file_digest(path) != described["parquet"]:
        raise DataError(f"{path} is absent, damaged, or of another training than {key}.json: train it again")
    try:
        frame = pl.read_parquet(io.BytesIO(path.read_bytes())).select(pl.col(n).cast(t) for n, t in _COLUMNS.items())
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    try:
        return Trained(**_plain(described), rows=frame["row"].to_numpy(), **_arrays(frame))
    except (TypeError, ValueError) as error:  # a DataError is a ValueError
        raise DataError(f"{folder / f'{key}.json'}: {error}") from error


def _plain(described: dict[str, Any]) -> dict[str, Any]:
    tuples = {name: tuple(float(number) for number in described[name]) for name in ("epochs", "ms_per_500")}
    return {name: described[name] for name in (*_DESCRIBED, "circumstances")} | tuples


def _arrays(frame: pl.DataFrame) -> dict[str, Any]:
    names = frame["split"].cast(pl.String)
    split = np.full(len(frame), "", f"<U{max(map(len, names.unique().to_list()), default=1)}")
    for name in names.unique().to_list():  # by comparison: a list of all names takes longer than all the rest
        split[(names == name).to_numpy()] = name
    return {"split": split, "label": frame["label"].to_numpy(), "score": frame["score"].to_numpy()}


def _problem(trained: Trained) -> str:
    lengths = {len(trained.rows), len(trained.split), len(trained.label), len(trained.score)}
    if trained.family not in get_args(Family) or trained.statistics not in get_args(Statistics):
        return f"there is no family {trained.family!r} with statistics {trained.statistics!r}"
    if not 0 < trained.share <= 1:
        return f"{trained.share} is no share of the training rows"
    if len(lengths) != 1:
        return f"rows, split, label and score have different lengths: {sorted(lengths)}"
    if (np.diff(np.sort(trained.rows)) == 0).any():
        return "a sample was scored twice"
    if not np.isin(trained.label, (0, 1)).all():
        return "a label is neither 0 nor 1"
    if not ((trained.score >= 0) & (trained.score <= 1)).all():  # also refuses NaN
        return "a score is no probability"
    return ""
