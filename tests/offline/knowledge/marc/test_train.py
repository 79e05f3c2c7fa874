"""Training finds a planted cause, looks only at what it may, and repeats itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from models.contract.arrays import FloatArray
from offline.knowledge.errors import TooFewError
from offline.knowledge.marc.frozen import Compressor
from offline.knowledge.marc.pairs import Pairs
from offline.knowledge.marc.train import CompressionConfig, Fitted, fit_compression, nhsic
from research.marc.baselines import principal_components
from research.marc.probe import area_under_curve, probe_auc
from tests.offline.knowledge.marc.fakes import planted

CONFIG = CompressionConfig(
    dim=8, hidden=16, matching_width=8, alpha=0.3, beta=0.01, batch_size=256, epochs=6, learning_rate=1e-2, dropout=0.0
)

Data = tuple[Pairs, FloatArray, FloatArray]


@pytest.fixture(scope="module")
def data() -> Data:
    return planted()


@pytest.fixture(scope="module")
def fitted(data: Data) -> Fitted:
    return fit_compression(CONFIG, *data)


def dependence(compressor: Compressor, data: Data) -> float:
    states = data[1][:256]
    return nhsic(torch.from_numpy(states), torch.from_numpy(compressor.compress(states, "user"))).item()


def test_the_cause_is_found_although_noise_is_louder(data: Data, fitted: Fitted) -> None:
    pairs, users, items = data
    assert fitted.held_out_auc > 0.75
    learnt, judged = pairs.parted(0.25)
    marc = fit_compression(CONFIG, learnt, users, items).compressor
    loudest = principal_components(learnt, users, items, 4)
    ours, theirs = (
        probe_auc(learnt, judged, compressor.compress(users, "user"), compressor.compress(items, "item"))
        for compressor in (marc, loudest)
    )
    assert ours > theirs + 0.05


def test_the_same_training_gives_the_same_weights_and_leaves_the_generator_alone(data: Data, fitted: Fitted) -> None:
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    assert fit_compression(CONFIG, *data).compressor.digest == fitted.compressor.digest
    assert torch.equal(torch.random.get_rng_state(), before)
    assert fit_compression(CONFIG.model_copy(update={"seed": 1}), *data).compressor.digest != fitted.compressor.digest


def test_what_no_pair_mentions_changes_nothing(data: Data, fitted: Fitted) -> None:
    pairs, users, items = data
    later = np.full((40, users.shape[1]), 1e3, np.float32)
    refitted = fit_compression(CONFIG, pairs, np.concatenate([users, later]), np.concatenate([items, later]))
    assert refitted.compressor.digest == fitted.compressor.digest


def test_held_out_pairs_only_stop_the_training(data: Data) -> None:
    pairs, users, items = data
    config = CONFIG.model_copy(update={"epochs": 1})
    flipped = pairs.liked.copy()
    flipped[-len(pairs) // 20 :] = 1.0 - flipped[-len(pairs) // 20 :]  # the later half of the held-out tenth
    other = Pairs(pairs.version, pairs.item, pairs.row, flipped)
    assert (
        fit_compression(config, pairs, users, items).compressor.digest
        == fit_compression(config, other, users, items).compressor.digest
    )


def test_the_constraint_keeps_more_of_the_states(data: Data) -> None:
    loose = fit_compression(CONFIG.model_copy(update={"alpha": 0.0, "beta": 0.0}), *data).compressor
    bound = fit_compression(CONFIG.model_copy(update={"alpha": 3.0, "beta": 0.0}), *data).compressor
    assert dependence(bound, data) > dependence(loose, data) + 0.05


def test_shared_weights_are_one_map(data: Data) -> None:
    compressor = fit_compression(CONFIG.model_copy(update={"shared": True, "epochs": 2}), *data).compressor
    assert compressor.user is compressor.item
    assert compressor.dim == 8


def test_too_few_or_one_sided_pairs_are_refused(data: Data) -> None:
    pairs, users, items = data
    with pytest.raises(TooFewError, match=r"needs 640 interactions .* there are 100, 49 of them likes"):
        fit_compression(CONFIG, pairs.at(slice(0, 100)), users, items)
    with pytest.raises(TooFewError, match="likes and others both among the last 10% and before"):
        fit_compression(CONFIG, pairs.at(pairs.liked > 0), users, items)


def test_the_area_counts_ties_half() -> None:
    liked, scores = np.array([0, 1, 0, 1], np.float32), np.array([0.1, 0.1, 0.0, 0.9], np.float32)
    assert area_under_curve(liked, scores) == pytest.approx(3.5 / 4)
    assert area_under_curve(np.ones(3, np.float32), scores[:3]) == 0.5


@pytest.mark.parametrize("wrong", [{"dim": 0}, {"alpha": -1.0}, {"held_out": 1.0}, {"matching": "mlp"}, {"width": 3}])
def test_a_wrong_setting_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CompressionConfig.model_validate(wrong)


def test_biases_keep_an_items_popularity_out_of_its_vector() -> None:
    draw = np.random.default_rng(2)
    users, items = (draw.normal(size=(200, 24)).astype(np.float32) for _ in range(2))
    liked_by = 1.0 / (1.0 + np.exp(-2.0 * draw.normal(size=200)))  # a share of its own, which its states do not tell
    version, item = draw.integers(200, size=(2, 6000))
    pairs = Pairs(version, item, np.arange(6000), (draw.random(6000) < liked_by[item]).astype(np.float32))

    def correlation(biases: bool) -> float:
        settings = {"biases": biases, "alpha": 0.0, "beta": 0.0, "matching": "feed-forward", "learning_rate": 2e-3}
        config = CONFIG.model_copy(update={**settings, "batch_size": 128, "patience": 6})
        vectors = fit_compression(config, pairs, users, items).compressor.compress(items, "item")
        rebuilt = vectors @ np.linalg.lstsq(vectors, liked_by - liked_by.mean(), rcond=None)[0]
        return float(np.corrcoef(rebuilt, liked_by)[0, 1])

    assert correlation(biases=True) < correlation(biases=False) - 0.1
