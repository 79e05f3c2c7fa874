"""Threads of the lowest priority, for work that must not hold up requests.

A thread that loads a release has the same interpreter as the requests, and perhaps the same core. Niced, it gets the
part of the core that the event loop leaves. That helps for work that lets go of the interpreter's lock, in numpy or in
ONNX Runtime; a thread that is put off with the lock in its hand holds up the requests for as long as others keep the
core, so nothing that runs in the background should stay in Python for long.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

ThreadRunner = Callable[..., Awaitable[Any]]
"""Runs a function with its arguments in some thread, as ``run_in_background`` and asyncio.to_thread do."""


async def run_in_background(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """``work(...)``, as asyncio.to_thread does it, in a thread of the lowest priority."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), partial(work, *arguments, **options))


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(4, thread_name_prefix="background", initializer=_give_way)


def _give_way() -> None:
    with suppress(OSError):  # a system without priorities of threads
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
