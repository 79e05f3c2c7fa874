"""Vectors made through an engine equal those made without one, to the bit."""

import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from models.contract.arrays import FloatArray
from offline.engine.engines import BatchT, EngineError, ResultT
from offline.knowledge.encoder import EngineEncoder, TextEncoder
from offline.knowledge.marc import states as module
from offline.knowledge.marc.states import EngineStates
from tests.offline.engine.in_process import InProcess

WORDS = ("film", "war", "love", "night", "story", "dark", "space", "drama", "hero", "likes", "viewer", "noir")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    source = random.Random(3)
    return [" ".join(source.choices(WORDS, k=source.randint(1, 12))) for _ in range(80)]


def test_encoded_vectors_are_equal_to_the_bit(texts: list[str]) -> None:
    engine = EngineEncoder(InProcess(), "all-MiniLM-L6-v2", 64, "float32")
    alone = TextEncoder("all-MiniLM-L6-v2", 64, "float32")
    assert engine.id == alone.id
    assert engine.encode(texts).tobytes() == alone.encode(texts).tobytes()


class Lengths:
    """A stand-in for a language model: the length of a text and how many came with it."""

    def __init__(self, name: str = "lengths") -> None:
        self.id = name
        self.former_ids: tuple[str, ...] = ()

    def read(self, texts: Sequence[str], depths: Sequence[float]) -> dict[float, FloatArray]:
        if "" in texts:
            raise ValueError("an empty text")
        return {depth: np.array([[len(text) * depth, len(texts)] for text in texts], np.float32) for depth in depths}

    def read_chunks(
        self, chunks: Sequence[Sequence[str]], depths: Sequence[float]
    ) -> Iterator[tuple[int, dict[float, FloatArray]]]:
        raise AssertionError("chunks are the engine's business")


class Backwards:
    """Two workers that finish the last batch first; remembers how many batches it was given at a time."""

    workers = 2

    def __init__(self) -> None:
        self.waves: list[int] = []

    def map_batches(
        self, make: Callable[[], Callable[[BatchT], ResultT]], batches: Sequence[BatchT]
    ) -> Iterator[tuple[int, ResultT]]:
        self.waves.append(len(batches))
        yield from reversed(list(InProcess().map_batches(make, batches)))


def test_states_travel_in_the_chunks_they_are_given_in() -> None:
    engine = Backwards()
    read = list(EngineStates(engine, Lengths).read_chunks([["a", "bb"], ["ccc"], ["dddd"]], [0.5, 1.0]))
    assert engine.waves == [3]
    assert [position for position, _ in read] == [2, 1, 0]
    assert {position: states[1.0].tolist() for position, states in read} == {
        0: [[1, 2], [2, 2]],
        1: [[3, 1]],
        2: [[4, 1]],
    }
    assert read[2][1][0.5].tolist() == [[0.5, 2], [1, 2]]


def test_many_chunks_are_handed_over_in_waves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNKS_PER_WORKER", 2)
    engine, chunks = Backwards(), [["x" * at] for at in range(1, 11)]
    read = dict(EngineStates(engine, Lengths).read_chunks(chunks, [1.0]))
    assert engine.waves == [4, 4, 2]
    assert [read[at][1.0][0, 0] for at in range(10)] == list(range(1, 11))


def test_an_error_names_the_model_and_what_was_finished_before_is_there() -> None:
    read = EngineStates(InProcess(), Lengths).read_chunks([["a"], ["b", ""]], [0.5])
    assert next(read)[0] == 0
    with pytest.raises(EngineError, match="hidden states of lengths: batch 1: ValueError: an empty text"):
        next(read)


def test_a_worker_with_other_weights_is_refused() -> None:
    names = iter(["lengths of the job", "lengths of a worker"])
    states = EngineStates(InProcess(), lambda: Lengths(next(names)))
    with pytest.raises(EngineError, match="other weights: lengths of a worker in place of lengths of the job"):
        list(states.read_chunks([["a"]], [0.5]))


def test_without_texts_nothing_is_opened() -> None:
    assert EngineEncoder(InProcess(), "nowhere", 64).encode([]).shape[0] == 0
    engine = Backwards()
    assert list(EngineStates(engine, Lengths).read_chunks([], [0.5])) == []
    assert engine.waves == []
