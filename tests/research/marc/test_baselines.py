"""The baselines freeze to the same form and are what their names say."""

from __future__ import annotations

import numpy as np
import pytest

from models.contract.arrays import FloatArray
from offline.data.catalogue import DataError
from offline.knowledge.marc.pairs import Pairs
from offline.knowledge.marc.train import CompressionConfig
from research.marc.baselines import matryoshka, plain_network, principal_components, uncompressed
from tests.offline.knowledge.marc.fakes import planted

CONFIG = CompressionConfig(hidden=32, dim=16, matching_width=8, batch_size=256, epochs=2, learning_rate=3e-3)

Data = tuple[Pairs, FloatArray, FloatArray]


@pytest.fixture(scope="module")
def data() -> Data:
    return planted()


def test_principal_components_lose_as_little_as_any_linear_map_can(data: Data) -> None:
    vectors = principal_components(*data, 4).compress(data[2], "item")
    seen = data[2] - data[2].mean(0)
    rebuilt = vectors @ np.linalg.lstsq(vectors, seen, rcond=None)[0]
    spectrum = np.linalg.svd(seen, compute_uv=False) ** 2
    lost = float(np.square(seen - rebuilt).sum() / np.square(seen).sum())
    assert lost == pytest.approx(spectrum[4:].sum() / spectrum.sum(), rel=1e-2)


def test_sides_have_components_of_their_own(data: Data) -> None:
    compressor = principal_components(*data, 4)
    for side, states in (("user", data[1]), ("item", data[2])):
        values = compressor.user.compress(states) if side == "user" else compressor.item.compress(states)
        np.testing.assert_allclose(values.mean(0), 0.0, atol=1e-4)
        assert np.square(values).mean() == pytest.approx(1.0, abs=1e-3)


def test_more_components_than_texts_are_refused(data: Data) -> None:
    pairs, users, items = data
    with pytest.raises(DataError, match="too few for 16"):
        principal_components(pairs.at(pairs.item < 10), users, items, 16)


def test_uncompressed_keeps_every_difference(data: Data) -> None:
    compressor = uncompressed(*data)
    assert compressor.dim == data[1].shape[1]
    given = data[2][0] - data[2][1]
    came = compressor.compress(data[2][:2], "item")
    ratio = (came[0] - came[1]) / given
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)


def test_a_plain_network_has_no_constraint_whatever_the_settings_say(data: Data) -> None:
    strong = CONFIG.model_copy(update={"alpha": 9.0, "beta": 9.0})
    plain, constrained = plain_network(CONFIG, *data), plain_network(strong, *data)
    assert plain.compressor.digest == constrained.compressor.digest
    assert plain.compressor.method == "mlp"


def test_matryoshka_vectors_are_prefixes_of_one_another(data: Data) -> None:
    compressors = matryoshka(CONFIG, *data, dims=(8, 16))
    narrow, wide = (compressors[dim].compress(data[2], "item") for dim in (8, 16))
    assert (narrow.shape[1], wide.shape[1]) == (8, 16)
    ratio = narrow / wide[:, :8]
    np.testing.assert_allclose(ratio, np.median(ratio), rtol=1e-2)
