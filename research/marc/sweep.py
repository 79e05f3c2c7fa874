"""Quality and cost of compressors: the layer sweep, bytes and time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from threadpoolctl import threadpool_limits

from models.contract.arrays import FloatArray
from models.contract.knowledge import KnowledgeRecord
from offline.knowledge.marc.frozen import Compressor
from offline.knowledge.marc.pairs import Pairs
from offline.knowledge.marc.train import CompressionConfig, fit_compression
from research.marc.baselines import (
    MATRYOSHKA_DIMS,
    matryoshka,
    plain_network,
    principal_components,
    uncompressed,
)
from research.marc.probe import probe_auc
from research.tables import spread_cell, table

_SPACE = "0" * 16


@dataclass(frozen=True, slots=True)
class SweepRow:
    """A line of a table: mean and standard deviation over the seeds. ``context`` names what the probe read beside."""

    context: str
    depth: float
    method: str
    dim: int
    auc: float
    spread: float


def compressors(config: CompressionConfig, pairs: Pairs, users: FloatArray, items: FloatArray) -> list[Compressor]:
    """Every method of the comparison at ``config.dim``, fitted on the same pairs and states."""
    dims = sorted({*MATRYOSHKA_DIMS, config.dim})
    return [
        fit_compression(config, pairs, users, items).compressor,
        principal_components(pairs, users, items, config.dim),
        plain_network(config, pairs, users, items).compressor,
        matryoshka(config, pairs, users, items, dims)[config.dim],
        uncompressed(pairs, users, items),
    ]


def layer_sweep(
    config: CompressionConfig,
    learnt: Pairs,
    judged: Pairs,
    states: Mapping[float, tuple[FloatArray, FloatArray]],
    contexts: Mapping[str, FloatArray | None],
    seeds: Sequence[int] = (0, 1, 2),
) -> list[SweepRow]:
    """Probe AUC per context, depth and method; ``states`` are (users, items) per depth, ``judged`` lies after
    ``learnt``.

    ``contexts``: what the probe reads beside the two vectors, by name. A seed sets both the compression's and the
    probe's training.
    """
    rows = []
    for depth, (users, items) in sorted(states.items()):
        measured: dict[tuple[str, str, int], list[float]] = {}
        for seed in seeds:
            for compressor in compressors(config.model_copy(update={"seed": seed}), learnt, users, items):
                vectors = compressor.compress(users, "user"), compressor.compress(items, "item")
                for name, context in contexts.items():
                    auc = probe_auc(learnt, judged, *vectors, context, seed)
                    measured.setdefault((name, compressor.method, compressor.dim), []).append(auc)
        rows += [
            SweepRow(name, depth, method, dim, float(np.mean(aucs)), float(np.std(aucs)))
            for (name, method, dim), aucs in measured.items()
        ]
    return rows


def depth_table(rows: Sequence[SweepRow]) -> str:
    """The rows of a context as a Markdown table: a line per method, a column per depth."""
    depths = sorted({row.depth for row in rows})
    lines = []
    for method, dim in dict.fromkeys((row.method, row.dim) for row in rows):
        cells = {row.depth: spread_cell(row.auc, row.spread) for row in rows if (row.method, row.dim) == (method, dim)}
        lines.append([method, str(dim), *(cells.get(depth, "") for depth in depths)])
    return table(["method", "dim", *(f"{depth:g}" for depth in depths)], lines)


def bytes_per_item(dim: int, dtype: Literal["float16", "int8"]) -> tuple[int, int]:
    """(bytes of numbers with their scale, bytes of the whole record less its owner's name), of a packed record."""
    record = KnowledgeRecord("", _SPACE, np.ones((1, dim), np.float32), 0, 0)
    whole, empty = (
        len(record.pack(dtype)),
        len(KnowledgeRecord("", _SPACE, np.ones((1, 0), np.float32), 0, 0).pack(dtype)),
    )
    return whole - empty + (4 if dtype == "int8" else 0), whole


def encode_seconds(compressor: Compressor, states: FloatArray, repeats: int = 20) -> float:
    """Processor time to compress item ``states`` on one thread: several would wait for each other, and on a busy
    machine that is all one would measure. The least of several passes."""
    times = []
    with threadpool_limits(1):
        for _ in range(repeats):
            started = time.process_time()
            compressor.compress(states, "item")
            times.append(time.process_time() - started)
    return min(times)
