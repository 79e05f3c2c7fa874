"""Gives the memory of mapped columns back piece by piece, once nothing refers to them any more.

Unmapping a file of hundreds of MB holds the process's lock on its memory for as long as that takes, and every thread
that scores waits for it at the next page that it touches: with both cores in use, the two gigabytes of a replaced
release added 30 to 48 ms to the p99 of the requests around a swap (docs/performance.md).
"""

from __future__ import annotations

import logging
import mmap
import threading
import time
import weakref
from functools import cache
from queue import SimpleQueue

import numpy as np

from models.contract.items import Columns

log = logging.getLogger(__name__)

PIECE = 1 << 20
"""Bytes that are given back at once, in about .1 ms."""

PAUSE_SECONDS = 0.002
"""Pause between pieces: two gigabytes take some five seconds."""


def unmap_gently(columns: Columns) -> None:
    """Let the mappings of ``read_columns`` be given back piece by piece, once neither a column nor a view of it is
    left: requests that are under way may still have some when a release is replaced."""
    for column in columns.values():
        mapped = column.base
        mapping = mapped.base if isinstance(mapped, np.memmap) else None
        if isinstance(mapping, mmap.mmap):
            # Whichever thread drops the last view calls this, perhaps from within the garbage collector, which is what
            # this queue's put is made for.
            weakref.finalize(mapped, _unused().put, mapping).atexit = False


def give_back(mapping: mmap.mmap) -> None:
    """Give the pages of a mapping back. All that was written to a private one is lost, so nothing may refer to it any
    more."""
    for start in range(0, len(mapping), PIECE):
        mapping.madvise(mmap.MADV_DONTNEED, start, min(PIECE, len(mapping) - start))
        if start + PIECE < len(mapping):
            time.sleep(PAUSE_SECONDS)


@cache
def _unused() -> SimpleQueue[mmap.mmap]:
    """Mappings that nothing refers to any more, and a thread that gives them back. It ends with the process, which does
    not wait for it."""
    unused: SimpleQueue[mmap.mmap] = SimpleQueue()
    threading.Thread(target=_give_back_all, args=(unused,), name="unmapping", daemon=True).start()
    return unused


def _give_back_all(unused: SimpleQueue[mmap.mmap]) -> None:
    while True:
        mapping = unused.get()
        try:
            give_back(mapping)
        except (OSError, ValueError):  # then the system takes all of it at once, when the mapping is gone
            log.exception("a file's memory cannot be given back in pieces")
        del mapping  # the next one may be long in coming
