"""Vectors that come with a configuration: used for the texts they belong to, and for nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from offline.data.catalogue import DataError
from offline.knowledge.encoder import VectorStore
from offline.knowledge.marc.store import StateStore, shipped_source
from offline.knowledge.shipped import read_shipped, write_shipped
from offline.llm.arithmetic import SAME_SPACE_COSINE
from tests.offline.knowledge.fakes import HashEncoder
from tests.offline.knowledge.marc.fakes import CountingReader

TEXTS = [f"text {number}" for number in range(50)]


def address(source: str, text: str) -> str:
    return hashlib.sha256(f"{source}\0{text}".encode()).hexdigest()[:32]


def test_eight_bits_a_column_stay_in_the_space(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    table = random.normal(size=(200, 64)).astype(np.float32) * np.geomspace(0.01, 100, 64, dtype=np.float32)
    vectors = {address("s", str(at)): row for at, row in enumerate(table)}
    assert write_shipped(tmp_path / "v.npz", {"s": vectors}) == 200
    read = read_shipped(tmp_path / "v.npz", "s")
    assert read.keys() == vectors.keys()
    for key, row in vectors.items():
        again = read[key].astype(np.float32)
        assert again @ row / np.linalg.norm(again) / np.linalg.norm(row) > SAME_SPACE_COSINE


def test_equal_contents_give_equal_bytes(tmp_path: Path) -> None:
    vectors = {address("s", text): np.full(3, at, np.float32) for at, text in enumerate(TEXTS)}
    write_shipped(tmp_path / "a.npz", {"s": vectors, "t": vectors})
    write_shipped(tmp_path / "b.npz", {"t": vectors, "s": dict(reversed(vectors.items()))})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_shipped_text_is_not_encoded_and_not_stored_again(tmp_path: Path) -> None:
    first = HashEncoder()
    encoded = VectorStore(tmp_path / "1.npz", first).vectors(TEXTS)
    vectors = dict(zip([address(first.id, text) for text in TEXTS], encoded, strict=True))
    write_shipped(tmp_path / "v.npz", {first.id: vectors})
    second = HashEncoder()
    store = VectorStore(tmp_path / "2.npz", second, tmp_path / "v.npz")
    read = store.vectors([*TEXTS, "new"])
    assert second.asked == ["new"]
    np.testing.assert_allclose(read[:-1], np.stack(list(vectors.values())), atol=0.02)
    assert store.read().keys() == {address(first.id, "new")}
    other = HashEncoder("other")
    VectorStore(tmp_path / "3.npz", other, tmp_path / "v.npz").vectors(TEXTS[:2])
    assert other.asked == TEXTS[:2], "vectors of another encoder are not taken"


def test_shipped_states_are_not_read_from_the_model(tmp_path: Path) -> None:
    reader = CountingReader(noise=0)
    states = StateStore(tmp_path / "1", reader).states(TEXTS, (0.5,))[0.5]
    source = shipped_source(reader.id, 0.5)
    vectors = dict(zip([address(reader.id, text) for text in TEXTS], states, strict=True))
    write_shipped(tmp_path / "v.npz", {source: vectors})
    fresh = CountingReader(noise=0)
    read = StateStore(tmp_path / "2", fresh, tmp_path / "v.npz").states([*TEXTS, "new"], (0.5,))[0.5]
    assert [texts for texts, _ in fresh.calls] == [["new"]]
    np.testing.assert_allclose(read[:-1], states, rtol=0.02, atol=0.1)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "v.npz").write_bytes(b"not an archive")
    with pytest.raises(DataError, match=r"v\.npz"):
        read_shipped(tmp_path / "v.npz", "s")
