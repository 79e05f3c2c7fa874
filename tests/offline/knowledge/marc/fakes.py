"""A language model of random weights, a reader that counts, and likes with a planted cause."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from models.contract.arrays import FloatArray
from offline.knowledge.marc.pairs import Pairs

WORDS = ("a", "film", "about", "love", "war", "space", "likes", "drama", "comedy", "and", "quiet", "loud")
LAYERS, HIDDEN = 4, 16


def tiny_model(folder: Path, bos: bool = True, words: Sequence[str] = WORDS) -> Path:
    """A Llama of four layers and sixteen numbers with a word tokenizer, saved as a transformers folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: at for at, word in enumerate(("<unk>", "<bos>", "<pad>", *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": "<bos>"} if bos else {}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", **special).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=HIDDEN,
            intermediate_size=32,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=64,
            initializer_range=0.5,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


class CountingReader:
    """States from a text's hash; remembers the texts of every call.

    ``backwards`` reads the last chunk first. ``noise`` per call is what batches of other shapes round differently.
    """

    id = "counting/1"
    former_ids: tuple[str, ...] = ()

    def __init__(self, fail_after: int | None = None, *, backwards: bool = False, noise: float = 0.01) -> None:
        self.calls: list[tuple[list[str], tuple[float, ...]]] = []
        self._fail_after = fail_after
        self._noise = noise
        self._step = -1 if backwards else 1

    def read(self, texts: Sequence[str], depths: Sequence[float]) -> dict[float, FloatArray]:
        if self._fail_after is not None and len(self.calls) == self._fail_after:
            raise KeyboardInterrupt
        self.calls.append((list(texts), tuple(depths)))
        noise = self._noise * len(self.calls)
        return {depth: np.stack([_hashed(f"{text}{depth}") + noise for text in texts]) for depth in depths}

    def read_chunks(
        self, chunks: Sequence[Sequence[str]], depths: Sequence[float]
    ) -> Iterator[tuple[int, dict[float, FloatArray]]]:
        for position in range(len(chunks))[:: self._step]:
            yield position, self.read(chunks[position], depths)

    @property
    def asked(self) -> int:
        return sum(len(texts) for texts, _ in self.calls)


def _hashed(text: str) -> FloatArray:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).normal(size=8).astype(np.float32)


def planted(pairs: int = 4000) -> tuple[Pairs, FloatArray, FloatArray]:
    """(pairs, user states, item states): two hidden tastes decide a like; six other directions are louder."""
    draw = np.random.default_rng(5)
    tastes, kinds, mix = draw.normal(size=(200, 2)), draw.normal(size=(150, 2)), draw.normal(size=(2, 24))
    users = tastes @ mix + draw.normal(size=(200, 6)) @ (1.5 * draw.normal(size=(6, 24))) + 3.0
    items = kinds @ mix + draw.normal(size=(150, 6)) @ (1.5 * draw.normal(size=(6, 24))) - 1.0
    version, item = draw.integers(200, size=pairs), draw.integers(150, size=pairs)
    affinity = (tastes[version] * kinds[item]).sum(1) + 0.3 * draw.normal(size=pairs)
    columns = Pairs(version, item, np.arange(pairs), (affinity > 0).astype(np.float32))
    return columns, users.astype(np.float32), items.astype(np.float32)
