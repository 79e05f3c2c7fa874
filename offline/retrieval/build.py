"""An index of vectors that finds those with the largest inner products: its kind by size, its effort by recall.

Knows arrays and FAISS. Does not know releases, Redis or where files lie.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from models.contract.arrays import FloatArray, IntArray

Kind = Literal["flat", "ivf", "hnsw"]

_TRAINED_ON = 64
"""Vectors per list from which its centre is learned."""

_NEIGHBOURS, _BUILD_EFFORT = 32, 128
"""HNSW graph: edges of a node, and candidates visited per insertion."""

_SAME = 1e-6
"""Scores so close are those of equally near items, and any of them may be found."""


class RecallError(RuntimeError):
    """No effort finds enough of what an exact search finds."""


@dataclass(frozen=True, slots=True)
class Built:
    """``content`` is the FAISS file; for the rest see models.contract.artifact.ItemIndex."""

    content: bytes
    kind: Kind
    effort: int
    recall: float


def kind_for(items: int, flat_up_to: int) -> Kind:
    """The kind of index that is fast enough for so many items. A graph (HNSW) is made only where it is asked for: it
    was slower than lists, and lost its way among a million clustered vectors (research/LOG.md, 2026-11-28)."""
    return "flat" if items <= flat_up_to else "ivf"


def build(
    vectors: FloatArray, ids: IntArray, groups: Sequence[FloatArray], kind: Kind, top: int, least: float
) -> Built:
    """An index of ``vectors`` [n, D] named by ``ids`` [n], with the least effort that finds a share of ``least`` of the
    ``top`` nearest ones of the queries [q, D] of each group. RecallError if no effort does. Its recall is that of the
    group that fares worst."""
    import faiss

    vectors, queries = np.ascontiguousarray(vectors, np.float32), np.concatenate(groups).astype(np.float32)
    ends = np.cumsum([len(group) for group in groups])[:-1]
    top = min(top, len(vectors))
    nearest, _ = faiss.knn(queries, vectors, top, metric=faiss.METRIC_INNER_PRODUCT)
    inner = _empty_index(vectors, kind)
    index = faiss.IndexIDMap2(inner)
    index.add_with_ids(vectors, ids)
    reached = 0.0
    for effort in _efforts(inner, kind, top):
        _, positions = inner.search(queries, top, params=search_parameters(kind, effort))
        reached = min(float(shares.mean()) for shares in np.split(recall(vectors, queries, positions, nearest), ends))
        if reached >= least:
            return Built(faiss.serialize_index(index).tobytes(), kind, effort, reached)
    raise RecallError(f"of the {top} nearest items, {kind} finds {reached:.4f} at most; {least} are wanted")


def search_parameters(kind: Kind, effort: int) -> Any:
    import faiss

    if kind == "ivf":
        return faiss.SearchParametersIVF(nprobe=effort)
    return faiss.SearchParametersHNSW(efSearch=effort) if kind == "hnsw" else None


def recall(vectors: FloatArray, queries: FloatArray, positions: IntArray, nearest: FloatArray) -> FloatArray:
    """Shares [q] of the nearest vectors of each query among ``positions`` [q, k], -1 for none; ``nearest``
    [q, k] scores of the nearest, falling."""
    scores = np.einsum("qd,qkd->qk", queries, vectors[positions])
    least = nearest[:, -1:]
    near = scores >= least - _SAME * np.maximum(np.abs(least), 1.0)
    return np.asarray((near & (positions >= 0)).mean(axis=1), np.float32)


def _empty_index(vectors: FloatArray, kind: Kind) -> Any:
    """An empty index, trained."""
    import faiss

    width = vectors.shape[1]
    if kind == "flat":
        return faiss.IndexFlatIP(width)
    if kind == "hnsw":
        graph = faiss.IndexHNSWFlat(width, _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = _BUILD_EFFORT
        return graph
    lists = 2 ** round(math.log2(4 * math.sqrt(len(vectors))))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid = _TRAINED_ON
    index.cp.min_points_per_centroid = 1  # few vectors for many lists are a test's; FAISS would warn on its output
    index.train(vectors)
    return index


def _efforts(index: Any, kind: Kind, top: int) -> Iterator[int]:
    """From little to as much as makes sense."""
    if kind == "flat":
        yield 0
        return
    most = index.nlist if kind == "ivf" else 32 * top
    effort = 1 if kind == "ivf" else top
    while effort < most:
        yield effort
        effort = max(effort + 1, int(effort * 1.25))
    yield most
