"""A server's processes as the kernel knows them: the processor time and memory they took; and how to hold them still.

A server is a process with all that descend from it: BentoML's and our workers are children.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """The process and its descendants, parents first."""
    pids = [pid]
    for process in pids:
        for task in _PROC.glob(f"{process}/task/*/children"):
            with suppress(OSError):
                pids += map(int, task.read_text().split())
    return pids


def cpu_seconds(pid: int) -> float:
    """Processor time, user and system, of a server since it started, to a hundredth of a second."""
    return sum(of_one(process) for process in tree(pid))


def of_one(pid: int) -> float:
    """Processor seconds of a single process; 0 if it is gone."""
    try:
        # The name, in parentheses, may hold anything; utime and stime are the 12th and 13th field behind it.
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory(pid: int) -> dict[str, float]:
    """MB of a server: ``pss``, in which a page that n processes share counts an n-th for each, and ``rss`` summed up,
    in which it counts n times."""
    megabytes = {"pss": 0.0, "rss": 0.0}
    for process in tree(pid):
        with suppress(OSError):
            for line in (_PROC / str(process) / "smaps_rollup").read_text().splitlines():
                name, _, value = line.partition(":")
                if name.lower() in megabytes:
                    megabytes[name.lower()] += int(value.split()[0]) / 1024
    return megabytes


def settle(pid: int, seconds: float = 120.0) -> None:
    """Wait until a server does nothing: all its workers have started. RuntimeError if it never rests."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        before = cpu_seconds(pid)
        time.sleep(0.5)
        if cpu_seconds(pid) - before < 0.05:
            return
    raise RuntimeError(f"process {pid} is still busy after {seconds:.0f} s")


def pause(pid: int) -> None:
    """Stop a server where it is, parents first, so that none of them notices."""
    _tell(pid, signal.SIGSTOP)


def resume(pid: int) -> None:
    _tell(pid, signal.SIGCONT)


@contextmanager
def awake(pid: int) -> Iterator[None]:
    """Let a paused server run for as long as the context lasts."""
    resume(pid)
    try:
        yield
    finally:
        pause(pid)


def _tell(pid: int, what: signal.Signals) -> None:
    for process in tree(pid):
        with suppress(ProcessLookupError):
            os.kill(process, what)
