"""Latent factors: repeatable, frozen, and the same for a text whatever else is asked."""

from __future__ import annotations

import numpy as np
import pytest

from models.contract.arrays import FloatArray
from offline.data.catalogue import DataError
from offline.knowledge.autograph.quantise import Quantiser, arrays_digest, fit_quantiser
from offline.knowledge.config import QuantiserConfig
from offline.knowledge.errors import TooFewError
from offline.knowledge.needs import LEAST_LATENT
from tests.offline.knowledge.autograph.small import GENRES, WIDTH, texts_like

CONFIG = QuantiserConfig(size=16, hidden=24, dim=8, steps=150, batch=64, kmeans_iterations=10)


@pytest.fixture(scope="module")
def texts() -> FloatArray:
    return texts_like(np.arange(300) % GENRES, np.random.default_rng(0))


@pytest.fixture(scope="module")
def quantiser(texts: FloatArray) -> Quantiser:
    return fit_quantiser(texts, CONFIG, seed=1)


def test_the_same_texts_and_seed_give_the_same_digest(texts: FloatArray, quantiser: Quantiser) -> None:
    assert arrays_digest(fit_quantiser(texts, CONFIG, seed=1).arrays) == arrays_digest(quantiser.arrays)
    assert arrays_digest(fit_quantiser(texts, CONFIG, seed=2).arrays) != arrays_digest(quantiser.arrays)


def test_fitting_leaves_the_callers_random_numbers_alone(texts: FloatArray) -> None:
    import torch

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit_quantiser(texts[:40], CONFIG.model_copy(update={"steps": 5}), seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_codes_tell_genres_apart_and_reconstruct_the_text(texts: FloatArray, quantiser: Quantiser) -> None:
    codes, latent = quantiser.assign(texts)
    assert codes.shape == (300, 3)
    assert codes.dtype == np.uint16
    assert int(codes.max()) < quantiser.size == 16
    assert latent.shape == (300, 8)
    genre = np.arange(300) % GENRES
    majority = sum(np.bincount(genre[codes[:, 0] == code]).max() for code in np.unique(codes[:, 0]))
    assert majority / len(genre) > 0.95
    error = np.abs(quantiser.reconstruct(codes) - texts).mean()
    assert error < 0.85 * np.abs(texts - texts.mean(axis=0)).mean()


def test_codes_follow_the_nearest_code_of_what_is_left(texts: FloatArray, quantiser: Quantiser) -> None:
    codes, latent = quantiser.assign(texts)
    residual = latent.astype(np.float64)
    for level, codebook in enumerate(quantiser.codebooks):
        distance = np.linalg.norm(residual[:, None] - codebook[None], axis=2)
        assert (distance.argmin(axis=1) == codes[:, level]).all()
        residual -= codebook[codes[:, level]]


def test_an_assignment_does_not_depend_on_the_rest_of_the_batch(quantiser: Quantiser) -> None:
    generator = np.random.default_rng(3)
    texts = texts_like(generator.integers(GENRES, size=700), generator)
    codes, latent = quantiser.assign(texts)
    order = generator.permutation(700)
    for rows in (order, order[:1], order[:33], order[:257]):
        some_codes, some_latent = quantiser.assign(texts[rows])
        np.testing.assert_array_equal(some_codes, codes[rows])
        np.testing.assert_array_equal(some_latent.view(np.int32), latent[rows].view(np.int32))
    assert quantiser.assign(texts[:0])[0].shape == (0, 3)


def test_arrays_of_another_version_are_refused(quantiser: Quantiser) -> None:
    incomplete = {name: array for name, array in quantiser.arrays.items() if name != "encoder.0.bias"}
    with pytest.raises(DataError, match="another version"):
        Quantiser(incomplete).assign(np.zeros((1, WIDTH), np.float32))


def test_a_text_of_another_width_is_refused(quantiser: Quantiser) -> None:
    with pytest.raises(DataError, match="width 16"):
        quantiser.assign(np.zeros((2, 17), np.float32))


def test_too_few_texts_make_smaller_codebooks_and_say_so(texts: FloatArray, quantiser: Quantiser) -> None:
    few = fit_quantiser(texts[:40], CONFIG.model_copy(update={"steps": 20}), seed=1)
    assert few.size == 10
    assert few.note == "10 codes instead of 16: only 40 vectors"
    assert not quantiser.note
    with pytest.raises(TooFewError, match="needs 8 encoded texts to fit latent factors, there are 7"):
        fit_quantiser(texts[: LEAST_LATENT - 1], CONFIG, seed=1)


def test_equal_texts_are_no_error() -> None:
    same = np.tile(texts_like(np.zeros(1, np.int64), np.random.default_rng(0)), (40, 1))
    codes, latent = fit_quantiser(same, CONFIG.model_copy(update={"steps": 20}), seed=1).assign(same)
    assert len(np.unique(codes, axis=0)) == 1
    assert np.isfinite(latent).all()
