"""Every peer: trained for an epoch on a small data set with a rule in it."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from research.quality.peers import (
    LONG_PEERS,
    PEERS,
    PeerResult,
    PeerSettings,
    RegressionSettings,
    TreeSettings,
    train_peer,
)
from research.quality.peers.samples import PeerSamples, peer_samples
from tests.synthetic import synthetic

pytest.importorskip("fuxictr")
pytest.importorskip("lightgbm")

SETTINGS = PeerSettings(
    embedding_dim=8,
    hidden_units=(32,),
    attention_hidden_units=(16,),
    batch_size=32,
    learning_rate=1e-2,
    epochs=1,
    dropout=0.0,
    embedding_regularizer=0.0,
    tree=TreeSettings(trees=30, patience=5, leaves=8, min_rows=10),
    regression=RegressionSettings(factors=3, rounds=5, user_penalty=1.0, item_penalty=1.0, prior_rounds=5),
)
EVERY = PEERS + LONG_PEERS
DEEP = tuple(name for name in EVERY if name not in ("LightGBM", "Bayesian"))


def settings_of(name: str) -> PeerSettings:
    """ETA weighs the history by embeddings alone, which are next to zero at first."""
    return SETTINGS.model_copy(update={"epochs": 3, "patience": 3}) if name == "ETA" else SETTINGS


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> PeerSamples:
    data = synthetic(tmp_path_factory.mktemp("synthetic"), seed=3, users=60, items=40, events=80)
    return peer_samples(data.config, data.catalogue, data.log)


@pytest.fixture(scope="module")
def trained(samples: PeerSamples, tmp_path_factory: pytest.TempPathFactory) -> dict[str, PeerResult]:
    folder = tmp_path_factory.mktemp("peers")
    return {name: train_peer(name, samples, settings_of(name), 1, folder, progress=False) for name in EVERY}


def auc(samples: PeerSamples, result: PeerResult) -> float:
    return float(roc_auc_score(samples.label[samples.of("test")], result.test))


@pytest.mark.parametrize("name", EVERY)
def test_it_finds_the_rule(name: str, samples: PeerSamples, trained: dict[str, PeerResult]) -> None:
    result = trained[name]
    assert result.validation.shape == samples.of("validation").shape
    assert result.test.shape == samples.of("test").shape
    for scores in (result.validation, result.test):
        assert scores.dtype == np.float32
        assert 0 < scores.min() < scores.max() < 1
    assert auc(samples, result) > 0.6
    assert len(result.ms_per_500) >= 30
    assert len(result.epochs) == settings_of(name).epochs or name == "LightGBM"
    assert min(result.ms_per_500) > 0
    assert result.parameters > 0
    assert result.seconds > 0


@pytest.mark.parametrize("name", PEERS)
def test_the_seed_decides_and_test_labels_do_not(
    name: str, samples: PeerSamples, trained: dict[str, PeerResult], tmp_path: Path
) -> None:
    label = samples.label.copy()
    label[samples.of("test")] = 1 - label[samples.of("test")]
    again = train_peer(name, replace(samples, label=label), SETTINGS, 1, tmp_path, progress=False)
    other = train_peer(name, samples, SETTINGS, 2, tmp_path, progress=False)
    assert again.test.tobytes() == trained[name].test.tobytes()
    assert again.validation.tobytes() == trained[name].validation.tobytes()
    assert again.epochs == trained[name].epochs
    assert other.test.tobytes() != trained[name].test.tobytes()


@pytest.mark.parametrize("name", PEERS)
def test_the_best_epoch_on_the_validation_samples_is_kept(name: str, samples: PeerSamples, tmp_path: Path) -> None:
    wild = SETTINGS.model_copy(update={"epochs": 4, "patience": 4, "learning_rate": 0.1})
    result = train_peer(name, samples, wild, 1, tmp_path, progress=False)
    auc = roc_auc_score(samples.label[samples.of("validation")], result.validation)
    assert auc == pytest.approx(max(result.epochs), abs=1e-4)
    assert list(tmp_path.iterdir())


@pytest.mark.parametrize("name", DEEP)
def test_with_statistics_and_less_of_everything(name: str, samples: PeerSamples, tmp_path: Path) -> None:
    fewer = SETTINGS.model_copy(
        update={"use_statistics": True, "train_fraction": 0.5, "rated_pools": False, "batch_norm": False}
    )
    result = train_peer(name, samples, fewer, 1, tmp_path, progress=False)
    assert auc(samples, result) > 0.6


def test_it_stops_when_nothing_is_learned(samples: PeerSamples, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(2, size=len(samples)).astype(np.float32)
    patient = SETTINGS.model_copy(update={"epochs": 50, "patience": 2})
    result = train_peer("DCNv2", replace(samples, label=noise), patient, 1, tmp_path, progress=False)
    assert len(result.epochs) < 50
    assert int(np.argmax(result.epochs)) == len(result.epochs) - 3


def test_nobody_else_notices(samples: PeerSamples, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import torch

    handlers, threads, state = list(logging.root.handlers), torch.get_num_threads(), torch.get_rng_state()
    for name in PEERS:
        train_peer(name, samples, SETTINGS, 1, tmp_path, progress=False)
    assert logging.root.handlers == handlers
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert capfd.readouterr() == ("", "")


def test_a_peer_that_there_is_not(samples: PeerSamples, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no peer 'AutoInt'"):
        train_peer("AutoInt", samples, SETTINGS, 1, tmp_path)


def test_naming_the_peers_loads_no_library() -> None:
    code = "import sys, research.quality.peers; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"fuxictr", "model_zoo", "lightgbm", "pandas", "torch"} & set(result.stdout.split())


def batch_of(samples: PeerSamples, kind: Any) -> tuple[Any, Any]:
    """The inputs of a model, and its batch of the first five test samples."""
    from research.quality.peers.inputs import Inputs

    settings = SETTINGS.model_copy(update={"use_statistics": True})
    inputs = Inputs(kind, samples, settings, samples.of("train"), pools=True)
    return inputs, inputs.encoder(samples).batch(samples.of("test")[:5])


def test_inputs_of_towers(samples: PeerSamples) -> None:
    inputs, (features, items, mask) = batch_of(samples, "towers")
    places = samples.of("test")[:5]
    length = samples.history.shape[1] + 1
    assert items["item"].view(5, length)[:, -1].tolist() == (samples.item[places] + 1).tolist()
    assert items["item"].view(5, length)[:, :-1].tolist() == samples.history[places].tolist()
    rating = items["rating"].view(5, length)
    assert rating[:, -1].tolist() == [0] * 5
    assert rating[:, :-1].tolist() == samples.history_values[places].tolist()  # 1 .. 5 stars are levels 1 .. 5
    assert mask.tolist() == (samples.history[places] > 0).tolist()
    shares = items["item_genres"].view(5, length, -1)[:, -1].numpy()
    for row, genres in zip(shares, samples.item_fields["genres"][samples.item[places]], strict=True):
        known = [genre for genre in genres if genre]
        assert row.tolist() == [1 / len(known) if genre in known else 0.0 for genre in range(1, len(row) + 1)]
    assert set(inputs.feature_map.features) == (set(features) | set(items)) - {"label"}
    liked = np.where(samples.history_values[places] > 3, samples.history[places], 0)
    assert features["liked"].tolist() == liked.tolist()
    assert (features["liked"] + features["others"]).tolist() == samples.history[places].tolist()


def test_flat_inputs(samples: PeerSamples) -> None:
    inputs, features = batch_of(samples, "flat")
    places = samples.of("test")[:5]
    assert set(inputs.feature_map.features) == set(features) - {"label"}
    genres = samples.item_fields["genres"]
    assert features["item_genres"].tolist() == genres[samples.item[places]].tolist()
    flat = features["history_genres"].view(5, -1, genres.shape[1])
    first = samples.history[places, 0] - 1
    assert flat[:, 0].tolist() == genres[first].tolist()


def test_shares_times_a_table_are_the_mean_of_embeddings(samples: PeerSamples) -> None:
    import torch

    from research.quality.peers.inputs import _share_table

    genres = samples.item_fields["genres"]
    table = torch.randn(int(genres.max()), 3)
    means = torch.from_numpy(_share_table(genres)) @ table
    for item, known in enumerate(genres):
        expected = table[[genre - 1 for genre in known if genre]].mean(dim=0)
        assert torch.allclose(means[item + 1], expected, atol=1e-6)


def test_an_epoch_has_every_sample_once_in_another_order(samples: PeerSamples) -> None:
    from research.quality.peers.inputs import Batches, Inputs

    train = samples.of("train")[:129]  # batches of 32 and one single sample, which no batch norm could train on
    encoder = Inputs("flat", samples, SETTINGS, train, pools=False).encoder(
        replace(samples, label=np.arange(len(samples), dtype=np.float32))
    )
    batches = Batches(encoder, train, 32, np.random.default_rng(0))
    epochs = [labels(batches), labels(batches)]
    assert len(batches) == 4
    assert [len(set(epoch)) for epoch in epochs] == [128, 128]
    assert epochs[0] != epochs[1]
    assert labels(Batches(encoder, train, 32)) == train.tolist()


def labels(batches: Iterable[Any]) -> list[float]:
    return [label for batch in batches for label in batch["label"].tolist()]
