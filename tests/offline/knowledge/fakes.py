"""An encoder and a language model that cost nothing. The real ones have tests of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from models.contract.arrays import FloatArray
from offline.config import JobConfig
from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog
from offline.data.texts_import import ImportedTexts
from offline.knowledge.encoder import TextEncoder
from offline.knowledge.inputs import ProducerInputs
from offline.knowledge.knowledge_texts import Answered, Domain, KnowledgeTexts
from offline.llm.choices import ChoiceAnswer
from offline.llm.protocol import Prompt

WIDTH = 16


class HashEncoder(TextEncoder):
    """Text -> pseudo-random vector of its content; remembers what it was asked."""

    def __init__(self, name: str = "hash") -> None:
        super().__init__(name, 16)
        self.asked: list[str] = []

    @property
    def width(self) -> int:
        return WIDTH

    def check_weights(self) -> None:
        return None

    def encode(self, texts: Sequence[str]) -> FloatArray:
        self.asked += texts
        return np.array([vector_of(text) for text in texts], np.float32).reshape(len(texts), WIDTH)


def vector_of(text: str) -> FloatArray:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).normal(size=WIDTH).astype(np.float32)


def weighed(prompt: Prompt) -> str:
    """An answer to a prompt with choices: probabilities that depend on its words alone, and sum to .9."""
    weights = np.exp(vector_of(repr(prompt.messages))[: len(prompt.choices)].astype(np.float64))
    return ChoiceAnswer(tuple((0.9 * weights / weights.sum()).tolist())).text(prompt.choices)


def _never(_: Prompt) -> bool:
    return False


class EchoModel:
    """Answers a prompt with a digest of it, and remembers the prompts per label. It is paid for an answer once.

    ``bad`` prompts have no usable answer; ``absent`` ones may have one in another run.
    """

    def __init__(
        self, bad: Callable[[Prompt], bool] = _never, absent: Callable[[Prompt], bool] = _never, name: str = "echo"
    ) -> None:
        self.name = name
        self.asked: dict[str, list[Prompt]] = {}
        self.paid: list[Prompt] = []
        self.bad, self.absent = bad, absent

    def __call__(self, prompts: list[Prompt], label: str) -> Answered:
        self.asked[label] = prompts
        absent = [self.absent(prompt) for prompt in prompts]
        self.paid += [
            prompt for prompt, missing in zip(prompts, absent, strict=True) if not missing and prompt not in self.paid
        ]
        texts = [
            None if missing or self.bad(prompt) else self.answer(prompt)
            for prompt, missing in zip(prompts, absent, strict=True)
        ]
        return Answered(texts, absent)

    @staticmethod
    def answer(prompt: Prompt) -> str:
        return (
            weighed(prompt)
            if prompt.choices
            else f"Answer {hashlib.sha256(prompt.messages[-1][1].encode()).hexdigest()[:8]}."
        )


def inputs(
    config: JobConfig,
    catalogue: Catalogue,
    log: InteractionLog,
    folder: Path,
    *,
    trained_rows: int,
    model: EchoModel | None = None,
    encoder: HashEncoder | None = None,
    imported: ImportedTexts | None = None,
) -> ProducerInputs:
    """Inputs of a producer, from fakes."""
    encoder, model = encoder or HashEncoder(), model or EchoModel()
    domain = Domain(config.knowledge, config.feature_schema, config.data.texts, catalogue, log)
    return ProducerInputs(
        config=domain.config,
        schema=domain.schema,
        vocabulary=domain.vocabulary,
        catalogue=catalogue,
        log=log,
        trained_rows=trained_rows,
        texts=KnowledgeTexts(domain, model, imported),
        encode=encoder.encode,
        encode_partitions=encoder.encode,
        llm=model.name,
        encoder=encoder.id,
        partition_encoder=encoder.id,
        folder=folder,
        checkpoints=folder / "checkpoints",
    )
