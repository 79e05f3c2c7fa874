"""Work beside the requests: in threads of the lowest priority."""

from __future__ import annotations

import os
import threading

import pytest

from service.releases.loader import run_in_background


async def test_threads_give_way_and_the_event_loop_does_not() -> None:
    def nice() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = nice()
    assert await run_in_background(nice) == 19
    assert nice() == before


async def test_answers_and_errors_come_back() -> None:
    assert await run_in_background(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await run_in_background(divmod, 7, 0)
