"""Peers made for long histories: where their inputs have padding, and that they read all events."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from research.quality.peers import LONG_PEERS, PeerSettings
from research.quality.peers.samples import PeerSamples, peer_samples
from tests.synthetic import synthetic

pytest.importorskip("fuxictr")

SETTINGS = PeerSettings(embedding_dim=8, hidden_units=(32,), dropout=0.0)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> PeerSamples:
    data = synthetic(tmp_path_factory.mktemp("synthetic"), seed=3, users=60, items=40, events=80)
    return peer_samples(data.config, data.catalogue, data.log)


def batch_of(samples: PeerSamples, kind: Any) -> Any:
    """A batch of the first five test samples."""
    from research.quality.peers.inputs import Inputs

    inputs = Inputs(kind, samples, SETTINGS, samples.of("train"), pools=False)
    return inputs.encoder(samples).batch(samples.of("test")[:5])


def test_recent_inputs_have_their_padding_first(samples: PeerSamples) -> None:
    _, towers, _ = batch_of(samples, "towers")
    _, items, mask = batch_of(samples, "recent")
    places, steps = samples.of("test")[:5], samples.history.shape[1]
    early = replace(samples, history=samples.history.copy(), history_values=samples.history_values.copy())
    early.history[places[0], 2:], early.history_values[places[0], 2:] = 0, 0  # a user with two events
    _, short, short_mask = batch_of(early, "recent")
    for name in ("item", "rating"):
        assert items[name].tolist() == towers[name].tolist(), "whole histories have no padding"
        row = short[name].view(5, steps + 1)[0]
        assert row[:-1].tolist() == [0] * (steps - 2) + towers[name][:2].tolist()
        assert row[-1] == towers[name][steps]
    assert mask.all()
    assert short_mask[0].tolist() == [0.0] * (steps - 2) + [1.0, 1.0]


@pytest.mark.parametrize("name", LONG_PEERS)
@pytest.mark.parametrize("length", [10, 50, 60])
def test_long_peers_read_the_whole_history(name: str, length: int, samples: PeerSamples, tmp_path: Path) -> None:
    """Also one that is shorter than what they attend to in full: the oldest event of a user with ``length`` of them
    changes a score."""
    import torch

    from research.quality.peers.fuxi_models import INPUT_KINDS, fuxi_model
    from research.quality.peers.inputs import Inputs

    history, values = samples.events.last(samples.user, samples.earlier, length)
    longer = replace(samples, history=history, history_values=values)
    places = np.flatnonzero(samples.earlier >= length)[-20:]
    other = replace(longer, history=history.copy())
    other.history[:, 0] = history[:, 0] % 40 + 1
    inputs = Inputs(INPUT_KINDS[name], longer, SETTINGS, samples.of("train"), pools=False)
    torch.manual_seed(0)
    model = fuxi_model(name, inputs, SETTINGS, tmp_path).eval()
    for weight in model.embedding_layer.parameters():
        torch.nn.init.normal_(weight)
    with torch.inference_mode():
        before, after = (model(inputs.encoder(each).batch(places))["y_pred"] for each in (longer, other))
    assert torch.isfinite(before).all()
    assert (before != after).any()
