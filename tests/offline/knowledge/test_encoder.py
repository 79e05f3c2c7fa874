"""The text encoder with its real weights, and the store that encodes each text once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from models.contract.arrays import FloatArray
from offline.data.files import read_arrays, write_arrays
from offline.knowledge import encoder as module
from offline.knowledge.encoder import TextEncoder, VectorStore
from offline.knowledge.pooling import EncoderError
from tests.offline.knowledge.fakes import WIDTH, HashEncoder, vector_of

SENTENCES = (
    "A spaceship crew fights an alien on a distant planet.",
    "Astronauts battle an extraterrestrial creature far from Earth.",
    "Two lonely office workers fall in love over letters.",
    "A slow romance between colleagues who write to each other.",
)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder("all-MiniLM-L6-v2", 64)


@pytest.fixture(scope="module")
def vectors(encoder: TextEncoder) -> FloatArray:
    return encoder.encode(SENTENCES)


def test_vectors_have_unit_length(vectors: FloatArray) -> None:
    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_similar_sentences_are_closer_than_different_ones(vectors: FloatArray) -> None:
    cosine = vectors @ vectors.T
    different = [cosine[0, 2], cosine[0, 3], cosine[1, 2], cosine[1, 3]]
    assert min(cosine[0, 1], cosine[2, 3]) > max(different) + 0.2


def test_order_and_company_hardly_matter(encoder: TextEncoder, vectors: FloatArray) -> None:
    shuffled = encoder.encode([SENTENCES[2], "short", SENTENCES[0], "a much longer sentence " * 10])
    np.testing.assert_allclose(shuffled[[0, 2]] @ vectors[[2, 0]].T, vectors[[2, 0]] @ vectors[[2, 0]].T, atol=0.02)


def test_the_number_of_cores_changes_no_bit(encoder: TextEncoder) -> None:
    texts = [" ".join(["a film about a heist"] * (1 + at % 7)) for at in range(150)]
    cores = torch.get_num_threads()
    vectors = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            vectors.append(encoder.encode(texts))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(cores)
    for other in vectors[1:]:
        np.testing.assert_array_equal(vectors[0], other)


def test_overlong_and_empty_texts_are_encoded_too(encoder: TextEncoder) -> None:
    vectors = encoder.encode(["", "word " * 2000])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_no_text_is_an_array_of_the_encoders_width(encoder: TextEncoder, vectors: FloatArray, tmp_path: Path) -> None:
    assert encoder.width == vectors.shape[1]
    fresh = TextEncoder("all-MiniLM-L6-v2", 64)
    none = VectorStore(tmp_path / "vectors.npz", fresh).vectors([])
    assert none.shape == (0, 384)
    assert none.dtype == np.float32
    assert fresh._loaded is None, "the weights are not needed for that"
    assert not list(tmp_path.iterdir())


def test_unknown_weights_are_named() -> None:
    with pytest.raises(EncoderError, match="no weights for the text encoder 'nowhere'"):
        TextEncoder("nowhere", 64).encode(["a"])


def test_each_text_is_encoded_once(tmp_path: Path) -> None:
    encoder = HashEncoder()
    store = VectorStore(tmp_path / "vectors.npz", encoder)
    first = store.vectors(["b", "a", "b"])
    assert encoder.asked == ["b", "a"]
    np.testing.assert_array_equal(first[0], first[2])
    second = store.vectors(["a", "c"])
    assert encoder.asked == ["b", "a", "c"]
    np.testing.assert_array_equal(second[0], first[1])


def test_the_store_survives_its_program(tmp_path: Path) -> None:
    VectorStore(tmp_path / "vectors.npz", HashEncoder()).vectors(["a", "b"])
    encoder = HashEncoder()
    vectors = VectorStore(tmp_path / "vectors.npz", encoder).vectors(["b", "a"])
    assert encoder.asked == []
    np.testing.assert_allclose(vectors, [vector_of("b"), vector_of("a")], atol=2e-3)
    assert vectors.dtype == np.float32


def test_another_encoder_encodes_again(tmp_path: Path) -> None:
    VectorStore(tmp_path / "vectors.npz", HashEncoder("one")).vectors(["a"])
    other = HashEncoder("two")
    VectorStore(tmp_path / "vectors.npz", other).vectors(["a"])
    assert other.asked == ["a"]


class BatchEncoder(HashEncoder):
    """As TextEncoder, a vector depends on the batch that its text is encoded in. ``before`` is called at each call."""

    def __init__(self, before: Callable[[int], None] = lambda call: None) -> None:
        super().__init__()
        self.calls = 0
        self._before = before

    def encode(self, texts: Sequence[str]) -> FloatArray:
        self.calls += 1
        self._before(self.calls)
        order = np.argsort([len(text) for text in texts], kind="stable")
        vectors = np.zeros((len(texts), WIDTH), np.float32)
        for at in range(0, len(texts), module.BATCH):
            rows = order[at : at + module.BATCH]
            company = hashlib.sha256("|".join(texts[row] for row in rows).encode()).hexdigest()
            vectors[rows] = super().encode([f"{texts[row]} in {company}" for row in rows])
        return vectors


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """More than are encoded between two looks, of many lengths."""
    monkeypatch.setattr(module, "_PASS", 2 * module.BATCH)
    return [f"{at} " + "x" * (at * 37 % 23) for at in range(9 * module.BATCH + 7)]


def test_a_killed_pass_keeps_what_it_encoded_and_the_next_makes_the_same_batches(
    tmp_path: Path, texts: list[str]
) -> None:
    def killed(call: int) -> None:
        if call == 4:
            raise KeyboardInterrupt

    whole = BatchEncoder().encode(texts).astype(np.float16)
    with pytest.raises(KeyboardInterrupt):
        VectorStore(tmp_path / "vectors.npz", BatchEncoder(killed)).vectors(texts)
    stored = len(read_arrays(tmp_path / "vectors.npz")["keys"])
    assert stored == 3 * 2 * module.BATCH
    encoder = BatchEncoder()
    vectors = VectorStore(tmp_path / "vectors.npz", encoder).vectors(texts)
    assert len(encoder.asked) == len(texts) - stored
    assert vectors.tobytes() == whole.astype(np.float32).tobytes()


def test_two_programs_at_once_lose_nothing_and_agree(tmp_path: Path, texts: list[str]) -> None:
    path, shared = tmp_path / "vectors.npz", texts[:3]

    def beside(call: int) -> None:
        if call == 1:  # this one has read the file; the other one reads and writes it now
            VectorStore(path, BatchEncoder()).vectors([*shared, "of the other alone"])

    vectors = VectorStore(path, BatchEncoder(beside)).vectors(texts)
    encoder = BatchEncoder()
    later = VectorStore(path, encoder).vectors([*texts, "of the other alone"])
    assert encoder.calls == 0
    np.testing.assert_array_equal(later[:-1], vectors)


def test_a_large_file_is_not_written_again_for_every_pass(
    tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, few = tmp_path / "vectors.npz", 4 * module.BATCH
    VectorStore(path, HashEncoder()).vectors([f"{text} before" for text in texts])
    monkeypatch.setattr(module, "_PASS", module.BATCH // 8)
    written: list[int] = []

    def counted(target: Path, **arrays: np.ndarray) -> None:
        written.append(len(arrays["keys"]))
        write_arrays(target, **arrays)

    monkeypatch.setattr("offline.store.write_arrays", counted)
    VectorStore(path, HashEncoder()).vectors(texts[:few])
    assert len(written) <= 4
    assert written[-1] == len(texts) + few
