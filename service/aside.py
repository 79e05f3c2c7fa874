"""Work beside the requests that are being served: in threads of the lowest priority, a little at a time.

A thread that loads a release has the same interpreter as the requests, and perhaps the same core. Niced, it gets what
of the core the event loop leaves; but a thread that holds the interpreter's lock is not made to let go of it by its
priority, so what runs in Python for long has to pause by itself: see ``pause``.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from typing import ParamSpec, TypeVar

PAUSE_SECONDS = 0.02
"""After each piece of work, which takes about a millisecond: one request in twenty meets a piece, and waits for it."""

P = ParamSpec("P")
T = TypeVar("T")


async def aside(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """``work(...)``, as asyncio.to_thread does it, in a thread that gives way to others."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), partial(work, *arguments, **options))


def pause() -> None:
    """Let requests go first. Called between pieces of work, never with a lock held that they need."""
    time.sleep(PAUSE_SECONDS)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(4, thread_name_prefix="aside", initializer=_give_way)


def _give_way() -> None:
    with suppress(OSError):  # a system without priorities of threads
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
