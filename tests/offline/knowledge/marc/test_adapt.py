"""Low-rank updates on a tiny random model: they learn, only they do, and the saved model repeats itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from offline.knowledge.marc.adapt import AdaptationConfig, adapt, adapted_model
from offline.knowledge.marc.pairs import Pairs
from offline.knowledge.marc.states import LanguageModelStates, mean_states
from offline.knowledge.marc.train import CompressionConfig
from tests.offline.knowledge.marc.fakes import WORDS, tiny_model

ADAPTATION = AdaptationConfig(steps=4, rank=2, learning_rate=1e-2, max_tokens=16, precision="float32")
COMPRESSION = CompressionConfig(dim=8, hidden=8, matching_width=4, batch_size=16, alpha=0.1, beta=0.1)
TEXTS = [f"{word} {other}" for word in WORDS[:6] for other in WORDS[6:]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def pairs() -> Pairs:
    draw = np.random.default_rng(0)
    version, item = draw.integers(len(TEXTS), size=100), draw.integers(len(TEXTS), size=100)
    return Pairs(version, item, np.arange(100), (version > item).astype(np.float32))


def states(folder: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return LanguageModelStates(folder.parent / "unused", folder, 16, precision="float32").read(TEXTS, (0.5,))[0.5]


def test_updates_below_the_depth_receive_gradients_and_nothing_else_does(model: Path) -> None:
    from transformers import AutoModel

    torch.manual_seed(0)
    adapted = adapted_model(AutoModel.from_pretrained(model), ADAPTATION)
    mean_states(adapted, [[1, 4, 5], [1, 6]], [0.5])[0].square().sum().backward()
    trained = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert trained
    assert all("lora_" in name and (".layers.0." in name or ".layers.1." in name) for name in trained)
    # the second factor starts at zero, so the first one's gradient is zero until the first step
    assert all(
        weight.grad is not None and weight.grad.abs().sum() > 0 for name, weight in trained.items() if "lora_B" in name
    )
    assert all(weight.grad is None for weight in adapted.parameters() if not weight.requires_grad)


def test_the_saved_model_is_another_one_and_the_same_each_time(model: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        adapt(model, tmp_path / name, ADAPTATION, COMPRESSION, pairs(), TEXTS, TEXTS)
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}
    first = states(tmp_path / "one")
    np.testing.assert_array_equal(first, states(tmp_path / "two"))
    assert np.abs(first - states(model)).max() > 1e-3
