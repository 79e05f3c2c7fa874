"""The frozen projection."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.contract.arrays import FloatArray
from offline.knowledge.errors import TooFewError
from offline.knowledge.projection import Projection


@pytest.fixture(scope="module")
def texts() -> FloatArray:
    """Vectors whose variance lies mostly in their first three dimensions."""
    scales = np.array([5.0, 3.0, 2.0, *[0.01] * 9])
    return np.asarray(np.random.default_rng(0).normal(size=(200, 12)) * scales + 1.0, np.float32)


def test_projected_texts_are_centered_and_have_unit_mean_square(texts: FloatArray) -> None:
    projected = Projection.fit(texts, 3).apply(texts)
    assert projected.shape == (200, 3)
    assert projected.dtype == np.float32
    np.testing.assert_allclose(projected.mean(axis=0), 0.0, atol=1e-4)
    assert float((projected**2).mean()) == pytest.approx(1.0, rel=0.02)


def test_distances_are_kept_up_to_one_scale(texts: FloatArray) -> None:
    projected = Projection.fit(texts, 3).apply(texts)
    wide = np.linalg.norm(texts[:50, None] - texts[None, :50], axis=2)
    narrow = np.linalg.norm(projected[:50, None] - projected[None, :50], axis=2)
    ratio = narrow[wide > 0] / wide[wide > 0]
    assert ratio.max() / ratio.min() < 1.05


def test_fitting_is_repeatable_and_its_digest_tells_content(texts: FloatArray) -> None:
    first, second = Projection.fit(texts, 3), Projection.fit(texts, 3)
    assert first.digest == second.digest
    assert Projection.fit(texts[:100], 3).digest != first.digest
    assert Projection.fit(texts, 2).digest != first.digest


def test_a_projection_reads_back(texts: FloatArray, tmp_path: Path) -> None:
    projection = Projection.fit(texts, 3)
    projection.save(tmp_path / "projection.npz")
    read = Projection.load(tmp_path / "projection.npz")
    assert read.digest == projection.digest
    np.testing.assert_array_equal(read.apply(texts), projection.apply(texts))


def test_few_texts_fill_as_many_dimensions_as_they_span(texts: FloatArray) -> None:
    projection = Projection.fit(texts[:4], 6)
    assert (projection.rank, projection.components.shape) == (3, (6, 12))
    projected = projection.apply(texts[:4])
    assert not projected[:, 3:].any()
    wide = np.linalg.norm(texts[:4, None] - texts[None, :4], axis=2)
    narrow = np.linalg.norm(projected[:, None] - projected[None], axis=2)
    ratio = narrow[wide > 0] / wide[wide > 0]
    assert ratio.max() / ratio.min() < 1.001  # nothing is lost
    assert Projection.fit(np.repeat(texts[:3], 5, axis=0), 6).rank == 2  # equal texts span nothing


@pytest.mark.parametrize(
    ("first", "later", "outgrown"),
    [(2, 2, False), (2, 3, True), (4, 6, False), (4, 7, True), (6, 7, True), (6, 6, False), (7, 200, False)],
)
def test_a_projection_is_outgrown_when_twice_as_many_dimensions_can_be_filled_or_all(
    texts: FloatArray, first: int, later: int, outgrown: bool
) -> None:
    assert Projection.fit(texts[:first], 6).is_outgrown(texts[:later]) == outgrown


def test_nothing_projects_to_zeros_and_is_outgrown_by_two_texts(texts: FloatArray) -> None:
    nothing = Projection.nothing(12, 6)
    assert not nothing.apply(texts).any()
    assert (nothing.rank, nothing.is_outgrown(texts[:1]), nothing.is_outgrown(texts[:2])) == (0, False, True)


@pytest.mark.parametrize("count", [0, 1])
def test_what_is_too_little_is_said(texts: FloatArray, count: int) -> None:
    with pytest.raises(TooFewError, match=f"needs 2 encoded texts to fit 6 dimensions, there are {count}"):
        Projection.fit(texts[:count], 6)
