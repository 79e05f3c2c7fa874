"""Hidden states of a causal language model: texts -> one vector per text and depth, here or on an engine's workers.

A depth is a fraction of the model's layers (0.5 = the residual stream half way up; 1.0 = what the language head reads).
Knows nothing of users, items or compression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from models.contract.arrays import FloatArray
from offline.engine.engines import Engine, EngineError
from offline.llm.arithmetic import Precision
from offline.llm.in_process import load_model, one_core_each, padded_batches
from offline.llm.weights import Weights

CHUNKS_PER_WORKER = 256
"""Chunks of hidden states that one worker computes: more are in memory twice, fewer load the model more often."""

StatesByDepth = dict[float, FloatArray]


class StateReader(Protocol):
    """A model as the store needs it. ``id`` names the weights and how tokens become one vector; under ``former_ids``
    earlier versions stored the same states."""

    @property
    def id(self) -> str: ...

    @property
    def former_ids(self) -> tuple[str, ...]: ...

    def read_chunks(
        self, chunks: Sequence[Sequence[str]], depths: Sequence[float]
    ) -> Iterator[tuple[int, StatesByDepth]]:
        """(position of a chunk, per depth float32 [n, D] of its texts), every chunk once.

        They come when they are done, in any order; a chunk's states must not depend on the other chunks.
        """


@dataclass(eq=False)
class LanguageModelStates:
    """Means of a language model's hidden states over the tokens of a text.

    The first position is left out of the mean. A causal model sees nothing but that token there and parks surplus
    attention on it ("attention sink", arXiv 2309.17453): in SmolLM2-135M its norm is 23,300 half way up, against 160
    elsewhere, and a mean with it says how long the text is. A beginning-of-text token is put in front where the
    tokenizer has one, so that no word of the text is lost.

    ``model`` is a GGUF file or a transformers folder (None: the packaged SmolLM2), ``checkpoints`` the folder for
    converted weights, ``precision`` the arithmetic. Nothing is loaded before the first text; a GPU is used if torch
    finds one.
    """

    checkpoints: Path
    model: Path | None = None
    max_tokens: int = 256
    padded_tokens: int = 4096
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        self._weights = Weights.find(self.model)
        self._loaded: tuple[Any, Any, float] | None = None

    @property
    def id(self) -> str:
        """Names what two texts' states must agree in to be comparable; the arithmetic is no part of it."""
        return f"{self._weights.name}/{self.max_tokens}/mean-after-first"

    @property
    def former_ids(self) -> tuple[str, ...]:
        """Names under which the same states were stored until 2026-11-29, with an arithmetic in them."""
        return (f"{self._weights.name}/bfloat16/{self.max_tokens}/mean-after-first",)

    def read(self, texts: Sequence[str], depths: Sequence[float]) -> StatesByDepth:
        """Per depth float32 [n, D], in the order of ``texts``; one forward pass for all depths."""
        tokenizer, model = self._load(max(depths))
        tokens = tokenised(tokenizer, texts, self.max_tokens)
        states = {depth: np.zeros((len(texts), int(model.config.hidden_size)), np.float32) for depth in depths}
        batches = list(padded_batches([len(text) for text in tokens], self.padded_tokens))

        def read(rows: list[int]) -> list[FloatArray]:
            return [means.cpu().numpy() for means in mean_states(model, [tokens[row] for row in rows], depths)]

        for rows, states_of_rows in zip(batches, one_core_each(read, batches), strict=True):
            for depth, vectors in zip(depths, states_of_rows, strict=True):
                states[depth][rows] = vectors
        return states

    def read_chunks(
        self, chunks: Sequence[Sequence[str]], depths: Sequence[float]
    ) -> Iterator[tuple[int, StatesByDepth]]:
        """(position, ``read`` of the chunk), one chunk after the other."""
        for position, texts in enumerate(chunks):
            yield position, self.read(texts, depths)

    def _load(self, deepest: float) -> tuple[Any, Any]:
        """The tokenizer and the model's layers up to ``deepest``; the layers above would be computed for nothing."""
        if self._loaded is None or self._loaded[2] < deepest:
            tokenizer, model = load_model(self._weights.checkpoint(self.checkpoints), self.precision)
            import torch

            layer = layer_of(deepest, int(model.config.num_hidden_layers))
            if isinstance(layers := getattr(model, "layers", None), torch.nn.ModuleList):
                # one layer more than is read: the state after the last one comes out normalised
                del layers[layer + 1 :]
            self._loaded = (tokenizer, model, deepest)
        return self._loaded[:2]


class TextReader(StateReader, Protocol):
    """A StateReader that a worker can hold: it reads one chunk at a time."""

    def read(self, texts: Sequence[str], depths: Sequence[float]) -> StatesByDepth: ...


def _states_worker(
    open_reader: Callable[[], TextReader], expected: str
) -> Callable[[tuple[list[str], list[float]]], StatesByDepth]:
    """Reads hidden states in a worker of an engine. ``expected`` is the model's id where the job runs."""
    reader = open_reader()
    if reader.id != expected:
        raise EngineError(f"a worker has other weights: {reader.id} in place of {expected}")
    return lambda task: reader.read(*task)


class EngineStates:
    """A StateReader whose chunks are worked on by an engine, each as one process would read it. ``open_reader`` travels
    to the workers by pickle."""

    def __init__(self, engine: Engine, open_reader: Callable[[], TextReader]) -> None:
        reader = open_reader()
        self.id, self.former_ids = reader.id, reader.former_ids
        self._engine = engine
        self._make = partial(_states_worker, open_reader, self.id)

    def read_chunks(
        self, chunks: Sequence[Sequence[str]], depths: Sequence[float]
    ) -> Iterator[tuple[int, StatesByDepth]]:
        """EngineErrors name the model."""
        wave = self._engine.workers * CHUNKS_PER_WORKER
        for start in range(0, len(chunks), wave):
            tasks = [(list(texts), list(depths)) for texts in chunks[start : start + wave]]
            try:
                for position, states in self._engine.map_batches(self._make, tasks):
                    yield start + position, states
            except EngineError as error:
                raise EngineError(f"hidden states of {self.id}: {error}") from error


def tokenised(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Token ids per text, a beginning-of-text token in front where there is one, cut at ``max_tokens``."""
    prefix = tokenizer.bos_token or ""
    marked = [prefix + text for text in texts]
    ids: list[list[int]] = tokenizer(marked, add_special_tokens=not prefix, truncation=True, max_length=max_tokens)[
        "input_ids"
    ]
    return ids


def mean_states(model: Any, tokens: Sequence[list[int]], depths: Sequence[float]) -> list[Any]:
    """Per depth float32 [B, D] of one batch; keeps the gradient where there is one."""
    import torch

    width = max(1, max(len(text) for text in tokens))
    ids = torch.tensor([[*text, *[0] * (width - len(text))] for text in tokens], device=model.device)
    lengths = torch.tensor([[len(text)] for text in tokens], device=model.device)
    mask = torch.arange(width, device=model.device) < lengths  # on the right: behind a causal mask no word sees padding
    hidden = model(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True, use_cache=False).hidden_states
    counted = mask.float()
    counted[:, :1] *= lengths <= 1  # all tokens but the first count; a text of one token keeps that one
    size = counted.sum(1, keepdim=True).clamp(min=1.0)
    layers = [layer_of(depth, int(model.config.num_hidden_layers)) for depth in depths]
    return [(hidden[layer].float() * counted.unsqueeze(-1)).sum(1) / size for layer in layers]


def layer_of(depth: float, layers: int) -> int:
    """Index into hidden_states, whose entry 0 are the embeddings; at least the first layer."""
    if not 0.0 < depth <= 1.0:
        raise ValueError(f"a depth is a fraction of the layers in (0, 1], not {depth}")
    return max(1, int(depth * layers + 0.5))
