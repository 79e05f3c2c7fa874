"""An encoder and a language model that cost nothing. The real ones have tests of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from models.contract.knowledge import FloatArray
from offline.knowledge.encoder import TextEncoder
from offline.llm.protocol import Prompt

WIDTH = 16


class HashEncoder(TextEncoder):
    """Text -> pseudo-random vector of its content; remembers what it was asked."""

    def __init__(self, name: str = "hash") -> None:
        super().__init__(name, 16)
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> FloatArray:
        self.asked += texts
        return np.array([vector_of(text) for text in texts], np.float32).reshape(len(texts), WIDTH)


def vector_of(text: str) -> FloatArray:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).normal(size=WIDTH).astype(np.float32)


class EchoModel:
    """Answers a prompt with a digest of it; remembers the prompts per label."""

    def __init__(self) -> None:
        self.asked: dict[str, list[Prompt]] = {}

    def __call__(self, prompts: list[Prompt], label: str) -> list[str]:
        self.asked[label] = prompts
        return [f"Answer {hashlib.sha256(prompt.messages[-1][1].encode()).hexdigest()[:8]}." for prompt in prompts]
