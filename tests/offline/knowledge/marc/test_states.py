"""Hidden states of a tiny random model, against transformers itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models.contract.arrays import FloatArray
from offline.knowledge.marc.states import LanguageModelStates
from tests.offline.knowledge.marc.fakes import HIDDEN, LAYERS, tiny_model

TEXTS = ("a quiet film about love", "war", "a loud comedy and a quiet drama about space and war", "likes drama")
DEPTHS = (0.25, 0.5, 0.75, 1.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def reader(model: Path, padded_tokens: int = 4096, max_tokens: int = 64) -> LanguageModelStates:
    return LanguageModelStates(model.parent / "unused", model, max_tokens, padded_tokens, "float32")


def means_of(model: Path, text: str, prefix: str) -> list[FloatArray]:
    """Per layer the mean state of a text alone, first position left out, by transformers itself."""
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(model)(prefix + text, add_special_tokens=False, return_tensors="pt")
    with torch.inference_mode():
        output = AutoModel.from_pretrained(model)(input_ids=tokens["input_ids"], output_hidden_states=True)
    return [layer[0, 1:].mean(0).numpy() for layer in output.hidden_states]


def test_states_are_means_over_the_tokens_after_the_first_at_every_depth(model: Path) -> None:
    means = reader(model).read(TEXTS, DEPTHS)
    for row, text in enumerate(TEXTS):
        expected = means_of(model, text, "<bos>")
        for depth in DEPTHS:
            assert means[depth].shape == (len(TEXTS), HIDDEN)
            np.testing.assert_allclose(means[depth][row], expected[round(depth * LAYERS)], atol=1e-5)


def test_company_and_batches_do_not_matter(model: Path) -> None:
    together, alone = reader(model).read(TEXTS, (0.5,)), reader(model, padded_tokens=1).read(TEXTS, (0.5,))
    np.testing.assert_allclose(together[0.5], alone[0.5], atol=1e-5)


def test_chunks_are_read_one_after_the_other(model: Path) -> None:
    tiny, chunks = reader(model), [TEXTS[:3], TEXTS[3:], TEXTS[1:2]]
    read = list(tiny.read_chunks(chunks, (0.5,)))
    assert [position for position, _ in read] == [0, 1, 2]
    for position, states in read:
        assert states[0.5].tobytes() == tiny.read(chunks[position], (0.5,))[0.5].tobytes()


def test_layers_above_the_deepest_are_not_run_and_do_not_change_it(model: Path) -> None:
    layers = reader(model)
    shallow = layers.read(TEXTS, (0.25,))[0.25]
    deep = layers.read(TEXTS, (0.25, 1.0))  # needs the layers that were dropped
    np.testing.assert_allclose(shallow, deep[0.25], atol=1e-6)
    assert not np.allclose(deep[0.25], deep[1.0])


def test_the_longest_text_decides_no_more_than_the_limit(model: Path) -> None:
    cut = reader(model, max_tokens=4).read(["a quiet film about love", "a quiet film"], (1.0,))[1.0]
    np.testing.assert_allclose(cut[0], cut[1], atol=1e-5)  # <bos> and three words each


def test_without_a_first_token_of_its_own_a_single_word_still_has_a_state(tmp_path: Path) -> None:
    means = reader(tiny_model(tmp_path / "plain", bos=False)).read(["war", "", "war and love"], (0.5,))[0.5]
    assert np.isfinite(means).all()
    assert np.abs(means[0]).max() > 0
    assert np.abs(means[1]).max() == 0


def test_the_identity_follows_the_weights(model: Path, tmp_path: Path) -> None:
    assert reader(model).id != reader(model, max_tokens=8).id
    other = tiny_model(tmp_path / "model", bos=False)
    assert reader(model).id != reader(other).id


@pytest.mark.parametrize("depth", [0.0, -0.5, 1.5])
def test_a_depth_outside_the_model_is_refused(model: Path, depth: float) -> None:
    with pytest.raises(ValueError, match="fraction of the layers"):
        reader(model).read(["war"], (depth,))
