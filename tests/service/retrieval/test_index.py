"""Searches in a FAISS file of each kind: rows of the table, filters, and files that are not what they should be."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from models.contract.arrays import FloatArray
from models.contract.artifact import ArtifactError, ItemIndex
from models.contract.events import item_hash
from models.contract.items import ItemTable
from models.contract.schema import FeatureSchema, KnowledgeSpec
from service.retrieval.index import FaissIndex

SCHEMA = FeatureSchema(
    name="found",
    user_fields=(),
    item_fields=(),
    history_length=4,
    knowledge=(KnowledgeSpec(name="near", side="item", dim=4),),
)
VECTORS = np.random.default_rng(1).normal(size=(300, 4)).astype(np.float32)
QUERY = np.array([1.0, -0.5, 0.25, 0.0], np.float32)
BEST = np.argsort(-(VECTORS @ QUERY)) + 1
"""Rows of the table, best first."""


def table(count: int = 300) -> ItemTable:
    zeros = np.zeros((count, 0))
    return ItemTable.build(
        SCHEMA,
        [f"i{at}" for at in range(count)],
        np.zeros(count),
        zeros,
        np.zeros((count, 3)),
        VECTORS[:count],
        np.ones((count, 1)),
    )


def written(folder: Path, kind: str = "flat", vectors: FloatArray = VECTORS, **changes: Any) -> ItemIndex:
    """A file as the jobs write it, searched completely."""
    lists = faiss.IndexIVFFlat(faiss.IndexFlatIP(4), 4, 4, faiss.METRIC_INNER_PRODUCT)
    graph = faiss.IndexHNSWFlat(4, 16, faiss.METRIC_INNER_PRODUCT)
    index = {"flat": faiss.IndexFlatIP(4), "ivf": lists, "hnsw": graph}[kind]
    index.train(vectors)
    named = faiss.IndexIDMap2(index)
    hashes = np.array([item_hash(f"i{at}") for at in range(len(vectors))], np.uint64)
    named.add_with_ids(vectors, hashes.view(np.int64))
    content = faiss.serialize_index(named).tobytes()
    folder.mkdir(exist_ok=True)
    (folder / f"{kind}.faiss").write_bytes(content)
    described = {
        "space": "item/near",
        "file": f"{kind}.faiss",
        "sha256": hashlib.sha256(content).hexdigest(),
        "kind": kind,
        "effort": {"flat": 0, "ivf": 4, "hnsw": 300}[kind],
        "items": len(vectors),
        "top": 10,
        "recall": 1.0,
    }
    return ItemIndex.model_validate(described | changes)


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_the_nearest_rows_come_first(tmp_path: Path, kind: str) -> None:
    index = FaissIndex.open(tmp_path, written(tmp_path, kind), table())
    assert len(index) == 300
    assert index.nearest(QUERY, 10).tolist() == BEST[:10].tolist()
    assert len(index.nearest(QUERY, 1000)) >= (290 if kind == "hnsw" else 300)  # not every node of a graph is reached


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_only_allowed_rows_are_found(tmp_path: Path, kind: str) -> None:
    index = FaissIndex.open(tmp_path, written(tmp_path, kind), table())
    allowed = np.zeros(301, np.bool_)
    allowed[BEST[1::2]] = True
    bits = index.bits(allowed)
    assert index.nearest(QUERY, 10, bits).tolist() == BEST[1:21:2].tolist()
    left = index.without(bits, BEST[[1, 5, 0]])
    assert index.nearest(QUERY, 3, left).tolist() == BEST[[3, 7, 9]].tolist()
    assert index.nearest(QUERY, 1, bits).tolist() == [BEST[1]]  # what was excluded for one request is not for the next
    both = index.without(index.bits(None), np.array([BEST[0], BEST[0], BEST[1]]))
    assert index.nearest(QUERY, 1, both).tolist() == [BEST[2]]


def test_items_that_the_table_does_not_hold_are_not_found(tmp_path: Path) -> None:
    index = FaissIndex.open(tmp_path, written(tmp_path), table(100))
    rows = index.nearest(QUERY, 300)
    assert rows.tolist() == [row for row in BEST.tolist() if row <= 100]
    assert index.without(index.bits(None), np.array([0])).tolist() == index.bits(None).tolist()


def test_a_file_that_is_not_the_published_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be read"):
        FaissIndex.open(tmp_path, written(tmp_path, file="absent.faiss"), table())
    with pytest.raises(ArtifactError, match="has sha256"):
        FaissIndex.open(tmp_path, written(tmp_path, sha256="0" * 64), table())
    (tmp_path / "odd.faiss").write_bytes(b"odd")
    odd = written(tmp_path, file="odd.faiss", sha256=hashlib.sha256(b"odd").hexdigest())
    with pytest.raises(ArtifactError, match="is no usable index"):
        FaissIndex.open(tmp_path, odd, table())
