"""Work beside the requests: in threads of the lowest priority, with pauses between its pieces."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from models.contract.lookup import IdIndex
from service.aside import aside


async def test_threads_give_way_and_the_event_loop_does_not() -> None:
    def nice() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = nice()
    assert await aside(nice) == 19
    assert nice() == before


async def test_answers_and_errors_come_back() -> None:
    assert await aside(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await aside(divmod, 7, 0)


def test_an_index_of_many_ids_pauses_and_finds_the_same() -> None:
    ids = [f"item {at}" for at in range(10_000)]
    pauses: list[None] = []
    paused = IdIndex.of(ids, lambda: pauses.append(None))
    assert len(pauses) > 3
    np.testing.assert_array_equal(paused.find(ids), IdIndex.of(ids).find(ids))
