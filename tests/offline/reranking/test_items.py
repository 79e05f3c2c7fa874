"""Items as prompts need them: unit vectors from a projection that is fitted once, on items of the training period."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offline.data.catalogue import Catalogue
from offline.data.texts import TextsConfig
from offline.knowledge.projection import Projection
from offline.reranking.items import items_of
from tests.offline.knowledge.fakes import WIDTH, HashEncoder
from tests.synthetic import Synthetic, synthetic


@pytest.fixture
def data(tmp_path: Path) -> Synthetic:
    return synthetic(tmp_path, users=10, items=20, events=10)


def test_vectors_have_unit_length_and_names_are_words(data: Synthetic, tmp_path: Path) -> None:
    found = items_of(
        data.catalogue, data.log, TextsConfig(), 40, 80, 4, HashEncoder().encode, tmp_path / "projection.npz"
    )
    assert found.vectors.shape == (len(data.log.item_ids), 4)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1.0, atol=1e-3)
    at = list(found.ids).index("i3")
    assert found.names[at] == "Film 3"
    assert found.texts[at].startswith("'Film 3' (")
    assert max(len(one) for one in found.texts) <= 40


def test_the_projection_is_fitted_to_items_of_the_training_period_and_kept(data: Synthetic, tmp_path: Path) -> None:
    path, encoder = tmp_path / "projection.npz", HashEncoder()
    items_of(data.catalogue, data.log, TextsConfig(), 160, 40, 4, encoder.encode, path)
    seen = np.unique(data.log.item[:40])
    texts = [str(TextsConfig().item_text(data.catalogue.items[one])) for one in data.log.item_ids]
    expected = Projection.fit(encoder.encode([texts[at] for at in seen]), 4)
    assert Projection.load(path).digest == expected.digest
    items_of(data.catalogue, data.log, TextsConfig(), 160, 100, 4, encoder.encode, path)
    assert Projection.load(path).digest == expected.digest, "another one would make other vectors"


def test_items_without_a_text_are_similar_to_nothing(data: Synthetic, tmp_path: Path) -> None:
    bare = Catalogue(data.catalogue.users, {**data.catalogue.items, "i3": {}})
    found = items_of(bare, data.log, TextsConfig(), 160, 80, 4, HashEncoder().encode, tmp_path / "projection.npz")
    assert not found.vectors[list(found.ids).index("i3")].any()


def test_a_catalogue_too_small_to_fit_keeps_its_vectors(data: Synthetic, tmp_path: Path) -> None:
    path = tmp_path / "projection.npz"
    found = items_of(data.catalogue, data.log, TextsConfig(), 160, 80, 64, HashEncoder().encode, path)
    assert found.vectors.shape[1] == WIDTH
    assert not path.exists()
