"""What MARC's compression costs and keeps, by the CTR model that reads it: methods and widths against the states.

Every vector is read as it would be published: the compressed ones as int8, the uncompressed states as float16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from models.contract.knowledge import FloatArray, Space
from models.contract.schema import FeatureSchema, KnowledgeSpec
from offline.config import JobConfig
from offline.data.catalogue import Catalogue
from offline.data.files import write_json
from offline.data.log import InteractionLog
from offline.knowledge.marc.frozen import Compressor
from offline.knowledge.marc.produce import States
from offline.knowledge.vectors import ItemVectors, Knowledge, Produced, UserVectors
from offline.metrics import quality
from offline.training.bootstrap import Difference, Resamples, difference
from research.marc.sweep import bytes_per_item, compressors, encode_seconds
from research.tables import table
from research.trials import Laboratory, Trial, Wanted

DIMS = (16, 32, 64, 128)
UNCOMPRESSED = "uncompressed"
BARE = ("no knowledge", 0)


@dataclass(frozen=True, slots=True)
class Row:
    """One method at one width. ``payload`` are the bytes of an item's numbers with their scale; ``seconds`` of
    processor time compress all items; ``against`` is the difference of AUC to the uncompressed states."""

    method: str
    dim: int
    auc: float
    validation_auc: float
    payload: int
    seconds: float
    against: Difference | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """All methods and widths on one data set. ``floor`` is the AUC without any knowledge."""

    name: str
    seeds: int
    items: int
    floor: float
    rows: tuple[Row, ...]

    def save(self, path: Path) -> None:
        write_json(path, asdict(self))


def compare(
    config: JobConfig,
    catalogue: Catalogue,
    log: InteractionLog,
    states: States,
    folder: Path,
    *,
    seeds: int,
    dims: Sequence[int] = DIMS,
    workers: int = 1,
) -> Comparison:
    """Compress the states by every method at every width, and train the CTR model on each result."""
    laboratory = Laboratory(config, catalogue, log, folder)
    test = laboratory.splits.rows["test"]
    label = (log.value[test] > config.feature_schema.liked_above).astype(np.float32)
    user = log.user[test].astype(np.int64)
    resamples = Resamples(label, user)
    pairs = states.pairs(log, laboratory.splits.trained_rows, config.feature_schema.liked_above)
    found: dict[tuple[str, int], Compressor] = {}
    for dim in dims:
        wanted = config.knowledge.marc.compression.model_copy(update={"dim": dim})
        for made in compressors(wanted, pairs, states.users, states.items):
            found.setdefault((made.method, made.dim), made)
    order = sorted(found, key=lambda one: (one[1], one[0]))
    read = {key: (_schema(config, key[1]), _knowledge(config, found[key], states)) for key in order}
    read[BARE] = (config.feature_schema.with_knowledge(()), Knowledge({}))
    asked = [(key, Wanted(*read[key], f"{key[0]} {key[1]}", seed)) for seed in range(1, seeds + 1) for key in read]
    done: dict[tuple[str, int], dict[int, Trial]] = {key: {} for key in read}
    for (key, one), trial in zip(asked, laboratory.trials([one for _, one in asked], workers), strict=True):
        done[key][one.seed] = trial
    aucs = {key: resamples.mean_auc({seed: one.test for seed, one in done[key].items()}) for key in order}
    whole = next(value for (method, _), value in aucs.items() if method == UNCOMPRESSED)
    rows = []
    for method, dim in order:
        made, trials = found[method, dim], list(done[method, dim].values())
        rows.append(
            Row(
                method,
                dim,
                auc=_auc(trials, label, user),
                validation_auc=float(np.mean([one.validation_auc for one in trials])),
                payload=bytes_per_item(dim, _dtype(made))[0],
                seconds=encode_seconds(made, states.items),
                against=None if method == UNCOMPRESSED else difference(aucs[method, dim], whole),
            )
        )
    return Comparison(config.name, seeds, len(states.items), _auc(list(done[BARE].values()), label, user), tuple(rows))


def _auc(trials: Sequence[Trial], label: FloatArray, user: npt.NDArray[np.int64]) -> float:
    return float(np.mean([quality(label, one.test, user).auc for one in trials]))


def markdown(comparison: Comparison) -> str:
    """The table of docs/marc.md."""
    whole = next(row for row in comparison.rows if row.method == UNCOMPRESSED)
    heads = ["method", "dim", "AUC", "against uncompressed [95 %]", "bytes per item", "of uncompressed"]
    lines = [["no knowledge", "0", f"{comparison.floor:.4f}", "", "0"]]
    for row in comparison.rows:
        against = "" if row.against is None else str(row.against)
        share = f"1/{whole.payload / row.payload:.1f}"
        microseconds = f"{1e6 * row.seconds / comparison.items:.1f}"
        lines.append([row.method, str(row.dim), f"{row.auc:.4f}", against, str(row.payload), share, microseconds])
    return table([*heads, "encode time, µs"], lines)


def _dtype(made: Compressor) -> Literal["float16", "int8"]:
    return "float16" if made.method == UNCOMPRESSED else "int8"


def _schema(config: JobConfig, dim: int) -> FeatureSchema:
    specs = (KnowledgeSpec(name="marc", side="user", dim=dim), KnowledgeSpec(name="marc", side="item", dim=dim))
    return FeatureSchema.model_validate({**config.feature_schema.model_dump(), "knowledge": specs})


def _knowledge(config: JobConfig, made: Compressor, states: States) -> Knowledge:
    def space(side: str) -> Space:
        shape = {"name": "marc", "side": side, "rows": 1, "dim": made.dim, "dtype": _dtype(made)}
        return Space.model_validate({**shape, "components": {"method": made.method, "compressor": made.digest}})

    items = np.zeros((len(states.items), made.dim), np.float32)
    items[states.known] = made.compress(states.items[states.known], "item")
    users = UserVectors(space("user"), made.compress(states.users, "user"), states.start, states.since)
    return Knowledge({"marc": Produced(users, ItemVectors.of_texts(space("item"), items, states.known))})
