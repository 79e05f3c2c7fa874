"""Indexes of each kind find what an exact search finds, with the least effort that does, or are refused."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from models.contract.arrays import FloatArray
from offline.retrieval.build import Kind, RecallError, build, kind_for, recall, search_parameters

RANDOM = np.random.default_rng(3)
VECTORS = RANDOM.normal(size=(3000, 8)).astype(np.float32)
QUERIES = RANDOM.normal(size=(40, 8)).astype(np.float32)
IDS = RANDOM.integers(-(2**62), 2**62, size=3000)


def exact(queries: FloatArray, top: int) -> list[set[int]]:
    best = np.argsort(-(queries @ VECTORS.T), axis=1)[:, :top]
    return [set(IDS[row].tolist()) for row in best]


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_an_index_finds_the_share_that_it_promises(kind: Kind) -> None:
    built = build(VECTORS, IDS, [QUERIES], kind, top=20, least=0.95)
    assert built.kind == kind
    assert 0.95 <= built.recall <= 1.0
    index = faiss.deserialize_index(np.frombuffer(built.content, np.uint8))
    parameters = search_parameters(kind, built.effort)
    inner = faiss.downcast_index(index.index)
    named = faiss.vector_to_array(index.id_map)
    _, positions = inner.search(QUERIES, 20, params=parameters)
    shares = [
        len(set(named[row].tolist()) & best) / 20 for row, best in zip(positions, exact(QUERIES, 20), strict=True)
    ]
    assert np.mean(shares) == pytest.approx(built.recall)


def test_the_group_of_queries_that_fares_worst_decides() -> None:
    efforts = [build(VECTORS, IDS, [group], "ivf", top=20, least=0.9).effort for group in (VECTORS[:40], QUERIES)]
    assert build(VECTORS, IDS, [VECTORS[:40], QUERIES], "ivf", top=20, least=0.9).effort == max(efforts)


def test_more_recall_takes_more_effort() -> None:
    efforts = [build(VECTORS, IDS, [QUERIES], "ivf", top=20, least=least).effort for least in (0.5, 0.9, 1.0)]
    assert efforts == sorted(efforts)
    assert efforts[0] < efforts[-1]


def test_an_index_that_cannot_find_enough_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offline.retrieval.build._efforts", lambda *_: iter([1]))
    with pytest.raises(RecallError, match=r"ivf finds 0\.\d+ at most; 0\.99 are wanted"):
        build(VECTORS, IDS, [QUERIES], "ivf", top=20, least=0.99)


def test_fewer_items_than_are_wanted_are_all_found() -> None:
    built = build(VECTORS[:3], IDS[:3], [QUERIES], "flat", top=200, least=0.99)
    assert built.recall == 1.0


def test_of_equally_near_items_any_may_be_found() -> None:
    vectors = np.repeat(np.eye(2, dtype=np.float32), 5, axis=0)
    queries = np.array([[1.0, 0.5]], np.float32)
    nearest = np.array([[1.0, 1.0]], np.float32)
    assert recall(vectors, queries, np.array([[3, 4]]), nearest) == 1.0
    assert recall(vectors, queries, np.array([[3, 7]]), nearest) == 0.5
    assert recall(vectors, queries, np.array([[3, -1]]), nearest) == 0.5


def test_kinds_follow_from_size() -> None:
    assert [kind_for(items, 10) for items in (0, 10, 11, 10_000_000)] == ["flat", "flat", "ivf", "ivf"]
