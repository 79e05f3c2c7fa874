"""A language model behind an engine: the client notices no difference."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from offline.engine.engines import BatchT, Engine, EngineError, ResultT
from offline.llm.cache import ResponseCache
from offline.llm.client import LLMClient
from offline.llm.engine import EngineBackend, backend_on
from offline.llm.protocol import PermanentError, TransientError, UnusableBackendError
from tests.offline.engine.in_process import InProcess
from tests.offline.llm.fakes import FakeBackend, ask, plain_client

PROMPTS = [ask(f"{name} " + "x" * (at % 7)) for at, name in enumerate("abcdefghijklmnopqrst")]


class WatchedEngine:
    """The local engine, with two workers by name; remembers how many calls each of its tasks had."""

    workers = 2

    def __init__(self) -> None:
        self.waves: list[list[int]] = []

    def map_batches(
        self, make: Callable[[], Callable[[BatchT], ResultT]], batches: Sequence[BatchT]
    ) -> Iterator[tuple[int, ResultT]]:
        self.waves.append([len(calls) for calls in batches])  # type: ignore[arg-type]
        return InProcess().map_batches(make, batches)


def client_on(engine: Engine, model: FakeBackend, cache: ResponseCache, calls: int) -> LLMClient:
    backend = EngineBackend(engine, lambda: model, calls)
    return plain_client(backend, cache, backend.calls_in_flight)  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_size", [1, 4])
async def test_answers_and_cache_equal_those_without_an_engine(tmp_path: Path, batch_size: int) -> None:
    written = []
    for name, engine in (("without", None), ("with", WatchedEngine())):
        model = FakeBackend(batch_size)
        with ResponseCache(tmp_path / f"{name}.sqlite3") as cache:
            client = plain_client(model, cache) if engine is None else client_on(engine, model, cache, 6)
            answers = await client.ask_all(PROMPTS, "test")
            cache.export_jsonl_gz(tmp_path / f"{name}.gz")
        assert answers.complete
        assert set(model.paid.values()) == {1}
        assert model.most_prompts == batch_size
        written.append((answers, model.calls, (tmp_path / f"{name}.gz").read_bytes()))
    assert written[0] == written[1]


async def test_calls_in_flight_travel_together(cache: ResponseCache) -> None:
    engine = WatchedEngine()
    assert (await client_on(engine, FakeBackend(), cache, 6).ask_all(PROMPTS, "test")).complete
    assert engine.waves == [
        [3, 3, 3, 3, 3, 3, 2]
    ]  # a task holds what one worker may ask at a time: 6 calls / 2 workers
    assert (await client_on(engine, FakeBackend(4), cache, 6).ask_all([ask(p * 3) for p in "uvwxyz"], "test")).complete
    assert engine.waves[1:] == [[1, 1]]  # a local model makes one call at a time


@pytest.mark.parametrize("batch_size", [1, 2])
async def test_failures_reach_the_client_as_what_they_are(cache: ResponseCache, batch_size: int) -> None:
    model = FakeBackend(batch_size)
    model.failing = {"bad": PermanentError("too long"), "late one": TransientError("busy", 0.5)}
    prompts = [ask("bad"), ask("good"), ask("late one"), ask("by its side")]
    answers = await client_on(WatchedEngine(), model, cache, 2).ask_all(prompts, "test")
    by_its_side = "answer to <by its side>" if batch_size == 1 else None  # a call fails as a whole
    assert answers.texts == [None, "answer to <good>", None, by_its_side]
    assert answers.absent[0] == "PermanentError: too long"
    assert answers.absent[2] == "TransientError: busy"
    assert model.paid[ask("good")] == 1


async def test_an_unusable_model_stops_the_run(cache: ResponseCache) -> None:
    model = FakeBackend()
    model.failing = {"a": UnusableBackendError("wrong key")}
    answers = await client_on(WatchedEngine(), model, cache, 2).ask_all([ask("a")], "test")
    assert answers.stopped == "wrong key"


async def test_a_server_that_is_down_is_not_tried_by_every_call_of_a_wave(cache: ResponseCache) -> None:
    model = FakeBackend()
    model.failing = {f"film {n}": TransientError("refused") for n in range(200)}
    prompts = [ask(text) for text in model.failing]
    answers = await client_on(WatchedEngine(), model, cache, 2).ask_all(prompts, "test")
    assert len(answers.absent) == 200
    assert model.calls < 64  # of 200 prompts with two attempts each


async def test_a_defect_of_the_model_is_raised_and_the_others_are_stored(cache: ResponseCache) -> None:
    model = FakeBackend()
    model.failing = {"odd": ZeroDivisionError("oops")}
    client = client_on(WatchedEngine(), model, cache, 2)
    with pytest.raises(EngineError, match="ZeroDivisionError: oops"):
        await client.ask_all([ask("one"), ask("odd"), ask("two")], "test")
    assert cache.totals()[0] == 2


async def test_an_engine_that_fails_is_told_to_all_who_wait(cache: ResponseCache) -> None:
    def no_model() -> FakeBackend:
        if opened:
            raise MemoryError("no room")
        opened.append(True)
        return FakeBackend()

    opened: list[bool] = []
    backend = EngineBackend(WatchedEngine(), no_model, 2)
    client = plain_client(backend, cache, backend.calls_in_flight)  # type: ignore[arg-type]
    with pytest.raises(MemoryError, match="no room"):
        await client.ask_all(PROMPTS, "test")


async def test_without_workers_the_model_runs_as_it_always_did() -> None:
    model = FakeBackend()
    assert backend_on(None, lambda: model, 6) == (model, 6)
    backend, in_flight = backend_on(WatchedEngine(), lambda: model, 6)
    assert isinstance(backend, EngineBackend)
    assert in_flight == backend.calls_in_flight > 6
