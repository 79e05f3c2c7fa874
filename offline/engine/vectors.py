"""Texts to vectors on an engine's workers: the text encoder, and hidden states of a language model.

Texts travel in the same batches that one process would make, because a batch's composition changes the last bits of
its results. Where the results are kept is the caller's business.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from models.contract.knowledge import FloatArray
from offline.engine.local import LocalEngine
from offline.engine.protocol import Engine, EngineError, in_order
from offline.knowledge.encoder import TextEncoder
from offline.llm.arithmetic import Precision

ENCODED_TOGETHER = 64  # texts of one batch of TextEncoder
CHUNKS_PER_WORKER = 256
"""Chunks of hidden states that one worker computes: more are in memory twice, fewer load the model more often."""

States = dict[float, FloatArray]
OpenedReader = TypeVar("OpenedReader", bound="StatesReader")


class EncoderWorker:
    """The text encoder in a worker."""

    def __init__(self, name: str, max_tokens: int, precision: Precision) -> None:
        self._encoder = TextEncoder(name, max_tokens, precision)

    def __call__(self, texts: list[str]) -> FloatArray:
        return self._encoder.encode(texts)

    def close(self) -> None:
        """Nothing is held but memory."""


class EngineEncoder(TextEncoder):
    """A TextEncoder whose batches are worked on by an engine; vectors equal those of TextEncoder to the bit where the
    arithmetic is the same. With "auto" each worker chooses what its own machine is fast in."""

    def __init__(self, engine: Engine, name: str, max_tokens: int, precision: Precision = "auto") -> None:
        super().__init__(name, max_tokens, precision)
        self._engine = engine
        # a worker may start in another folder
        place = str(Path(name).absolute()) if Path(name).is_dir() else name
        self._make = partial(EncoderWorker, place, max_tokens, precision)

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Unit vectors float32 [n, width] of ``texts``, in their order."""
        if not texts:
            return np.zeros((0, 0), np.float32)
        order = np.argsort([len(text) for text in texts], kind="stable")
        batches = [order[at : at + ENCODED_TOGETHER] for at in range(0, len(order), ENCODED_TOGETHER)]
        made = self._engine.map_batches(self._make, [[texts[row] for row in rows] for rows in batches])
        sorted_vectors = np.concatenate(in_order(made, len(batches)))
        vectors = np.empty_like(sorted_vectors)
        vectors[order] = sorted_vectors
        return vectors


class StatesReader(Protocol):
    """As offline.knowledge.marc.states.LanguageModelStates: texts -> per depth float32 [n, D]."""

    @property
    def id(self) -> str: ...

    @property
    def former_ids(self) -> tuple[str, ...]: ...

    def read(self, texts: Sequence[str], depths: Sequence[float]) -> States: ...

    def read_chunks(self, chunks: Sequence[Sequence[str]], depths: Sequence[float]) -> Iterator[tuple[int, States]]: ...


class StatesWorker:
    """A language model whose hidden states are read, in a worker. ``expected`` is its id where the job runs."""

    def __init__(self, open_reader: Callable[[], StatesReader], expected: str) -> None:
        self._reader = open_reader()
        if self._reader.id != expected:
            raise EngineError(f"a worker has other weights: {self._reader.id} in place of {expected}")

    def __call__(self, task: tuple[list[str], list[float]]) -> States:
        return self._reader.read(*task)

    def close(self) -> None:
        """Nothing is held but memory."""


class EngineStates:
    """The chunks of marc.store.StateStore, worked on by an engine; each is read as one process would read it."""

    def __init__(self, engine: Engine, open_reader: Callable[[], StatesReader]) -> None:
        reader = open_reader()
        self.id, self.former_ids = reader.id, reader.former_ids
        self._engine = engine
        self._make = partial(StatesWorker, open_reader, self.id)

    def read_chunks(self, chunks: Sequence[Sequence[str]], depths: Sequence[float]) -> Iterator[tuple[int, States]]:
        """See marc.store.StateReader.read_chunks. EngineError names the model."""
        wave = self._engine.workers * CHUNKS_PER_WORKER
        for start in range(0, len(chunks), wave):
            tasks = [(list(texts), list(depths)) for texts in chunks[start : start + wave]]
            try:
                for position, made in self._engine.map_batches(self._make, tasks):
                    yield start + position, made
            except EngineError as error:
                raise EngineError(f"hidden states of {self.id}: {error}") from error


def states_on(engine: Engine, open_reader: Callable[[], OpenedReader]) -> OpenedReader | EngineStates:
    """The model where the engine runs it; ``open_reader`` travels to the workers by pickle."""
    return open_reader() if isinstance(engine, LocalEngine) else EngineStates(engine, open_reader)
