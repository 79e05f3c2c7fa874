"""Cost and quality of MARC's compression, by the CTR model that reads it: methods and widths against the states.

Every vector is read as it would be published: the compressed ones as int8, the uncompressed states as float16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from models.contract.arrays import FloatArray, IntArray
from models.contract.knowledge import Space
from models.contract.schema import FeatureSchema, KnowledgeSpec
from offline.config import JobConfig
from offline.data.files import write_json
from offline.knowledge.marc.frozen import Compressor
from offline.knowledge.marc.produce import States
from offline.knowledge.vectors import ItemVectors, Knowledge, Produced, UserVectors
from offline.metrics import in_words, quality
from offline.training.bootstrap import Difference, Resamples, difference
from research.marc.sweep import bytes_per_item, compressors, encode_seconds
from research.tables import table
from research.trials import Trial, TrialRunner, TrialSpec

DIMS = (16, 32, 64, 128)
UNCOMPRESSED = "uncompressed"
BARE = ("no knowledge", 0)


@dataclass(frozen=True, slots=True)
class CompressionRow:
    """A method at one width. ``payload`` are the bytes of an item's numbers with their scale; ``seconds`` of
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
    rows: tuple[CompressionRow, ...]

    def save(self, path: Path) -> None:
        write_json(path, asdict(self))

    def markdown(self) -> str:
        """The table of docs/marc.md."""
        whole = next(row for row in self.rows if row.method == UNCOMPRESSED)
        heads = ["method", "dim", "AUC", "against uncompressed [95 %]", "bytes per item", "of uncompressed"]
        lines = [["no knowledge", "0", in_words(self.floor), "", "0"]]
        for row in self.rows:
            against = "" if row.against is None else str(row.against)
            share = f"1/{whole.payload / row.payload:.1f}"
            microseconds = f"{1e6 * row.seconds / self.items:.1f}"
            lines.append([row.method, str(row.dim), in_words(row.auc), against, str(row.payload), share, microseconds])
        return table([*heads, "encode time, µs"], lines)


def compare_compressions(
    runner: TrialRunner, states: States, *, seeds: int, dims: Sequence[int] = DIMS, workers: int = 1
) -> Comparison:
    """Compress the states by every method at every width, and train the CTR model on each result."""
    config, (label, user) = runner.config, runner.test_samples()
    resamples = Resamples(label, user)
    pairs = states.pairs(runner.log, runner.splits.trained_rows, config.feature_schema.liked_above)
    compressor_of: dict[tuple[str, int], Compressor] = {}
    for dim in dims:
        settings = config.knowledge.marc.compression.model_copy(update={"dim": dim})
        for compressor in compressors(settings, pairs, states.users, states.items):
            compressor_of.setdefault((compressor.method, compressor.dim), compressor)
    order = sorted(compressor_of, key=lambda key: (key[1], key[0]))
    read = {key: (_schema(config, key[1]), _knowledge(config, compressor_of[key], states)) for key in order}
    read[BARE] = (config.feature_schema.with_knowledge(()), Knowledge({}))
    asked = [(key, TrialSpec(*read[key], f"{key[0]} {key[1]}", seed)) for seed in range(1, seeds + 1) for key in read]
    done: dict[tuple[str, int], dict[int, Trial]] = {key: {} for key in read}
    for (key, spec), trial in zip(asked, runner.trials([spec for _, spec in asked], workers), strict=True):
        done[key][spec.seed] = trial
    aucs = {key: resamples.mean_auc({seed: trial.test for seed, trial in done[key].items()}) for key in order}
    whole = next(value for (method, _), value in aucs.items() if method == UNCOMPRESSED)
    rows = []
    for method, dim in order:
        compressor, trials = compressor_of[method, dim], list(done[method, dim].values())
        rows.append(
            CompressionRow(
                method,
                dim,
                auc=_auc(trials, label, user),
                validation_auc=float(np.mean([trial.validation_auc for trial in trials])),
                payload=bytes_per_item(dim, _dtype(compressor))[0],
                seconds=encode_seconds(compressor, states.items),
                against=None if method == UNCOMPRESSED else difference(aucs[method, dim], whole),
            )
        )
    return Comparison(config.name, seeds, len(states.items), _auc(list(done[BARE].values()), label, user), tuple(rows))


def _auc(trials: Sequence[Trial], label: FloatArray, user: IntArray) -> float:
    return float(np.mean([quality(label, trial.test, user).auc for trial in trials]))


def _dtype(compressor: Compressor) -> Literal["float16", "int8"]:
    return "float16" if compressor.method == UNCOMPRESSED else "int8"


def _schema(config: JobConfig, dim: int) -> FeatureSchema:
    specs = (KnowledgeSpec(name="marc", side="user", dim=dim), KnowledgeSpec(name="marc", side="item", dim=dim))
    return FeatureSchema.model_validate({**config.feature_schema.model_dump(), "knowledge": specs})


def _knowledge(config: JobConfig, compressor: Compressor, states: States) -> Knowledge:
    def space(side: str) -> Space:
        shape = {"name": "marc", "side": side, "rows": 1, "dim": compressor.dim, "dtype": _dtype(compressor)}
        return Space.model_validate(
            {**shape, "components": {"method": compressor.method, "compressor": compressor.digest}}
        )

    items = np.zeros((len(states.items), compressor.dim), np.float32)
    items[states.known] = compressor.compress(states.items[states.known], "item")
    users = UserVectors(space("user"), compressor.compress(states.users, "user"), states.start, states.since)
    return Knowledge({"marc": Produced(users, ItemVectors.of_texts(space("item"), items, states.known))})
