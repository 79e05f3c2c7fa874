"""Bytes are those of real records, int8 costs little, and the sweep's table holds every method."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from models.contract.knowledge import KnowledgeRecord
from offline.knowledge.marc.train import CompressionConfig
from research.marc.baselines import uncompressed
from research.marc.sweep import bytes_per_item, depth_table, encode_seconds, layer_sweep
from tests.offline.knowledge.marc.fakes import planted


def packed_cosine(vectors: np.ndarray, dtype: Literal["float16", "int8"]) -> np.ndarray:
    """Cosine [n] of each vector [n, d] with what comes back from its packed record (1 for a zero vector)."""
    cosines = np.ones(len(vectors), np.float32)
    for at, vector in enumerate(vectors):
        blob = KnowledgeRecord("", "0" * 16, vector[None], 0, 0).pack(dtype)
        read = KnowledgeRecord.unpack(blob, "", "0" * 16).vectors[0]
        length = float(np.linalg.norm(vector) * np.linalg.norm(read))
        cosines[at] = float(vector @ read) / length if length else 1.0
    return cosines


def test_bytes_are_those_of_a_packed_record() -> None:
    record = KnowledgeRecord("1", "0" * 16, np.ones((1, 32), np.float32), 0, 0)
    payload, whole = bytes_per_item(32, "int8")
    assert whole == len(record.pack("int8")) - len("1")
    assert payload == 32 + 4
    assert bytes_per_item(576, "float16")[0] == 1152
    assert payload * 30 <= bytes_per_item(576, "float16")[0]


def test_int8_turns_a_vector_by_less_than_a_degree() -> None:
    vectors = np.random.default_rng(0).normal(size=(200, 32)).astype(np.float32)
    vectors[0] = 0.0
    assert packed_cosine(vectors, "int8").min() > 0.9998
    assert packed_cosine(vectors, "float16").min() > 0.999999


def test_the_sweep_has_a_line_per_method_and_a_column_per_depth() -> None:
    pairs, users, items = planted(pairs=3000)
    learnt, judged = pairs.parted(0.25)
    config = CompressionConfig(hidden=16, dim=16, matching_width=8, epochs=1)
    noise = np.random.default_rng(3).normal(size=users.shape).astype(np.float32)
    states = {0.5: (users, items), 1.0: (noise, items)}
    hints = np.zeros((int(pairs.row.max()) + 1, 1), np.float32)
    hints[pairs.row, 0] = pairs.liked
    both = layer_sweep(config, learnt, judged, states, {"alone": None, "told": hints}, seeds=(0,))
    rows = [row for row in both if row.context == "alone"]
    assert [(row.depth, row.method) for row in rows[:5]] == [
        (0.5, method) for method in ("marc", "pca", "mlp", "mrl", "uncompressed")
    ]
    hinted = {(row.depth, row.method): row.auc for row in both if row.context == "told"}
    assert min(hinted.values()) > 0.95
    aucs = {(row.depth, row.method): row.auc for row in rows}
    assert aucs[0.5, "uncompressed"] > aucs[1.0, "uncompressed"] + 0.1
    lines = depth_table(rows).splitlines()
    assert lines[0] == "| method | dim | 0.5 | 1 |"
    assert len(lines) == 7
    assert f"{aucs[1.0, 'pca']:.4f}" in lines[3]


def test_encoding_takes_time() -> None:
    pairs, users, items = planted(pairs=500)
    assert encode_seconds(uncompressed(pairs, users, items), items) == pytest.approx(0.0, abs=60.0)
