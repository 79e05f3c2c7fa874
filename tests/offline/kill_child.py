"""A refresh in a process of its own that ends itself with SIGKILL at a chosen moment.

Moments ("ticks") are counted before and after everything that outlives the process: a file put in place, a transaction
of SQLite, a command to Redis, a call of the language model. So every kind of half-done work can be met, and the same
number is always the same moment.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from typing import Any

import pytest
import redis
import redis.client
from tqdm import tqdm

from offline.llm.cache import ResponseCache
from tests.offline.pipeline import CountingModel, Pipeline, patched


class Ticking:
    """Counts moments; the process dies at the one numbered ``die_at``."""

    def __init__(self, die_at: int | None) -> None:
        self.count = 0
        self._die_at = die_at

    def tick(self) -> None:
        self.count += 1
        if self.count == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            self.tick()
            result = call(*arguments, **options)
            self.tick()
            return result

        return wrapped

    def around_async(self, call: Callable[..., Any]) -> Callable[..., Any]:
        async def wrapped(*arguments: Any, **options: Any) -> Any:
            self.tick()
            result = await call(*arguments, **options)
            self.tick()
            return result

        return wrapped


def refresh(installation: Pipeline, die_at: int | None, answers: Connection) -> None:
    """One refresh; tells its ledger line and how many moments it had, if it lives."""
    ticking = Ticking(die_at)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which a killed process leaves behind
    with (
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
        pytest.MonkeyPatch.context() as patch,
    ):
        patched(patch, installation)
        patch.setattr(os, "replace", ticking.around(os.replace))
        patch.setattr(ResponseCache, "_insert", ticking.around(ResponseCache._insert))
        patch.setattr(redis.Redis, "execute_command", ticking.around(redis.Redis.execute_command))
        patch.setattr(redis.client.Pipeline, "execute", ticking.around(redis.client.Pipeline.execute))
        patch.setattr(CountingModel, "complete", ticking.around_async(CountingModel.complete))
        entry = installation.refresh()
    answers.send((entry, ticking.count))
    sys.stdout.flush()
