"""The two modules: shapes, freezing, and that matching compares the sides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offline.knowledge.marc.network import AttentionMatching, Compression, FeedForwardMatching


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_frozen_network_computes_what_the_trained_one_does() -> None:
    states = (5.0 + 3.0 * drawn(50, 24)).numpy()
    states[:, 7] = 2.0  # a constant direction must not divide by zero
    network = Compression(states, 12, 8, dropout=0.5).eval()
    with torch.inference_mode():
        expected = network(torch.from_numpy(states)).numpy()
    np.testing.assert_allclose(network.frozen().compress(states), expected, atol=1e-5)
    assert np.isfinite(expected).all()


@pytest.mark.parametrize("kind", [AttentionMatching, FeedForwardMatching])
def test_a_pair_is_scored_alone_and_the_state_is_what_the_score_reads(
    kind: type[AttentionMatching] | type[FeedForwardMatching],
) -> None:
    torch.manual_seed(0)
    network = kind(16, 4)
    users, items = drawn(6, 16), drawn(6, 16, seed=1)
    logit, state = network(users, items)
    assert logit.shape == (6,)
    torch.testing.assert_close(network.score(state).squeeze(1), logit)
    alone, _ = network(users[2:3], items[2:3])
    torch.testing.assert_close(alone, logit[2:3], atol=1e-5, rtol=1e-5)


def test_a_compression_starts_as_principal_components() -> None:
    states = (drawn(200, 6) @ drawn(6, 24, seed=1)).numpy()
    network = Compression(states, 4, 3, dropout=0.0).eval()  # too few hidden units are raised to twice the outputs
    with torch.inference_mode():
        compressed = network(torch.from_numpy(states)).numpy().astype(np.float64)
    standard = (states - states.mean(0)) / states.std(0)
    left = np.linalg.svd(standard, full_matrices=False)[0][:, :3]
    np.testing.assert_allclose(np.abs(np.corrcoef(compressed.T, left.T)[:3, 3:]).max(1), 1.0, atol=1e-3)


def test_more_outputs_than_states_have_directions_still_start() -> None:
    states = drawn(30, 8).numpy()
    assert Compression(states, 4, 16, dropout=0.0)(drawn(5, 8)).shape == (5, 16)


def test_attention_crosses_the_sides() -> None:
    torch.manual_seed(0)
    network = AttentionMatching(16, 4)
    user, item = drawn(2, 16), drawn(2, 16, seed=1)
    logit = {(u, i): network(user[u : u + 1], item[i : i + 1])[0].item() for u in (0, 1) for i in (0, 1)}
    # a sum of one score per side would make this zero
    assert abs(logit[0, 0] - logit[0, 1] - logit[1, 0] + logit[1, 1]) > 1e-3


def test_matching_has_another_structure_than_compression() -> None:
    network = AttentionMatching(16, 4)
    assert not any(isinstance(part, nn.ReLU | nn.GELU | nn.Dropout | nn.Sequential) for part in network.modules())
    with pytest.raises(ValueError, match="multiple of 8"):
        AttentionMatching(12, 4)
