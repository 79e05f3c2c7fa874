"""The layer sweep: at which depth of the language model a compression starts best. See docs/marc.md.

Everything happens inside the training period: compressions and probes learn from its first nine tenths of pairs, and
the probes are judged on the last one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from models.contract.arrays import FloatArray
from models.contract.schema import FeatureSchema
from offline.config import JobConfig
from offline.data.files import write_json
from offline.data.log import InteractionLog
from offline.knowledge.marc.produce import States
from offline.training.samples import split_samples
from offline.training.statistics import running_statistics
from research.marc.sweep import SweepRow, depth_table, layer_sweep

DEPTHS = (0.25, 0.5, 0.75, 1.0)
JUDGED = 0.1
BESIDE_STATISTICS, ALONE = "With the running statistics:", "The two vectors alone:"


@dataclass(frozen=True, slots=True)
class Layers:
    """The sweep of one data set: ``pairs`` are those that were learnt from, and those that were judged."""

    name: str
    seeds: int
    pairs: tuple[int, int]
    rows: tuple[SweepRow, ...]

    def save(self, path: Path) -> None:
        write_json(path, asdict(self))

    def markdown(self) -> str:
        """Two tables: beside running statistics, and without."""
        parts = [f"{self.pairs[0]:,} pairs to learn from, {self.pairs[1]:,} to judge on, {self.seeds} seeds."]
        for context in (BESIDE_STATISTICS, ALONE):
            parts += [context, depth_table([row for row in self.rows if row.context == context])]
        return "\n\n".join(parts)


def sweep(config: JobConfig, log: InteractionLog, states: Mapping[float, States], seeds: Sequence[int]) -> Layers:
    """Every method on the states of every depth, with the probe's AUC beside running statistics and without."""
    trained_rows = split_samples(config.samples, log).trained_rows
    some = next(iter(states.values()))
    learnt, judged = some.pairs(log, trained_rows, config.feature_schema.liked_above).parted(JUDGED)
    rows = layer_sweep(
        config.knowledge.marc.compression,
        learnt,
        judged,
        {depth: (states_of.users, states_of.items) for depth, states_of in states.items()},
        {BESIDE_STATISTICS: known_before(config.feature_schema, log, trained_rows), ALONE: None},
        seeds,
    )
    return Layers(config.name, len(seeds), (len(learnt), len(judged)), tuple(rows))


def known_before(schema: FeatureSchema, log: InteractionLog, until: int) -> FloatArray:
    """[log rows, 4] what a CTR model knows without any vector: count and share of likes of the item and of the user
    before each row."""
    of_both = [running_statistics(schema, log, owner, until) for owner in (log.item, log.user)]
    return np.concatenate([statistics[:, [0, 2]] for statistics in of_both], axis=1)
