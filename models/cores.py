"""Cores that a process may use: those that it may run on, and no more than the quota of its control groups.

A container that may use two cores of a machine of 64 sees all 64 of them. Libraries that start a thread for each get
their two cores' time in slices, and stand still for most of every period.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import suppress
from pathlib import Path

_MACHINE = Path("/")
_THREADS = "OMP_NUM_THREADS"
"""Variable by which OpenMP and OpenBLAS, and with them numpy, FAISS and torch, know how many threads to start. They
read it once, when they are loaded."""


def usable_cores(root: Path = _MACHINE) -> int:
    """How many cores this process may use, at least one; shares of a core count as a whole. ``root`` has its ``proc``
    and ``sys``."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(root)
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def cpu_quota(root: Path = _MACHINE) -> float | None:
    """The least quota, in cores, of this process's control group and those around it; None if no group has one."""
    return min(_quotas(root), default=None)


def limit_threads(environment: MutableMapping[str, str], processes: int = 1, root: Path = _MACHINE) -> None:
    """Let libraries that this process, one of several, loads later start as many threads as the quota has cores for.
    Without a quota they know by themselves; a choice made in the environment stays."""
    if cpu_quota(root) is not None:
        environment.setdefault(_THREADS, str(max(1, usable_cores(root) // processes)))


def _quotas(root: Path) -> Iterator[float]:
    mounted = root / "sys" / "fs" / "cgroup"
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, named = line.partition(":")
        controllers, _, path = named.partition(":")
        # Version 2 has one tree; in version 1 each controller has its own.
        if not controllers:
            yield from _along(mounted, path, _version_2)
        elif "cpu" in controllers.split(","):
            for tree in {"cpu", controllers}:
                yield from _along(mounted / tree, path, _version_1)


def _along(tree: Path, path: str, read: Callable[[Path], float]) -> Iterator[float]:
    """Quotas of a group and of all around it. In a container the path may be the machine's, whose beginning it does not
    see: what is not there has no quota."""
    group = tree / path.strip("/")
    for folder in (group, *group.parents):
        with suppress(OSError, ValueError, ZeroDivisionError):
            yield read(folder)
        if folder == tree:
            return


def _version_2(folder: Path) -> float:
    quota, period = (folder / "cpu.max").read_text().split()
    return int(quota) / int(period)  # "max" is no number


def _version_1(folder: Path) -> float:
    quota = int((folder / "cpu.cfs_quota_us").read_text())
    if quota < 0:
        raise ValueError("no quota")
    return quota / int((folder / "cpu.cfs_period_us").read_text())
