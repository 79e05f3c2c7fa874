"""The text encoder with its real weights, and the store that encodes each text once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.contract.knowledge import FloatArray
from offline.knowledge.encoder import EncoderError, TextEncoder, VectorStore
from tests.offline.knowledge.fakes import HashEncoder, vector_of

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


def test_overlong_and_empty_texts_are_encoded_too(encoder: TextEncoder) -> None:
    made = encoder.encode(["", "word " * 2000])
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1.0, atol=1e-5)


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
