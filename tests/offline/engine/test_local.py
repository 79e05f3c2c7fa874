"""The engine without workers: order, positions, closing, errors."""

from collections.abc import Callable

import pytest

from offline.engine.engines import EngineError, LocalEngine, RayConfig, in_order, open_engine


class Doubling:
    """Work that counts what was opened and closed."""

    def __init__(self, events: list[str]) -> None:
        events.append("opened")
        self._events = events

    def __call__(self, batch: int) -> int:
        if batch < 0:
            raise ValueError("negative")
        return batch * 2

    def close(self) -> None:
        self._events.append("closed")


@pytest.fixture
def events() -> list[str]:
    return []


@pytest.fixture
def make(events: list[str]) -> Callable[[], Doubling]:
    return lambda: Doubling(events)


def test_every_batch_is_worked_on_once_by_one_worker(make: Callable[[], Doubling], events: list[str]) -> None:
    assert list(LocalEngine().map_batches(make, [5, 3, 4])) == [(0, 10), (1, 6), (2, 8)]
    assert events == ["opened", "closed"]


def test_without_batches_nothing_is_opened(make: Callable[[], Doubling], events: list[str]) -> None:
    assert list(LocalEngine().map_batches(make, [])) == []
    assert events == []


def test_an_error_names_its_batch_and_closes_the_work(make: Callable[[], Doubling], events: list[str]) -> None:
    results = LocalEngine().map_batches(make, [1, -1, 2])
    assert next(results) == (0, 2)
    with pytest.raises(EngineError, match="batch 1: ValueError: negative"):
        next(results)
    assert events == ["opened", "closed"]


def test_results_are_put_in_order() -> None:
    assert in_order(iter([(2, "c"), (0, "a"), (1, "b")]), 3) == ["a", "b", "c"]


def test_the_local_engine_needs_no_settings() -> None:
    with open_engine("local", RayConfig()) as engine:
        assert isinstance(engine, LocalEngine)
