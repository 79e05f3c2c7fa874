"""Torch's threads: how they wait for each other, and which of them computes what."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def wait_without_spinning() -> None:
    """Let torch's OpenMP threads sleep while they wait; call it before the first import of torch.

    By default they spin. On a machine that something else also uses (cron jobs beside a service), a spinning thread
    keeps the core from the one it waits for: measured with SmolLM2, batch 64, on 2 cores that were busy elsewhere,
    20 tokens/s spinning against 390 sleeping. A choice made in the environment is kept.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def one_core_each(work: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
    """``work`` of every task in order, without gradients; one core computes a task, and the cores share the tasks.

    Cores that share a task cut its matrix products by how many they are. Where a core has AMX, the sums of a bfloat16
    product then have other last bits, and a job would publish other bytes on another number of cores
    (research/LOG.md, 2026-11-28).
    """
    import torch

    cores = torch.get_num_threads()

    def alone() -> None:
        torch.set_num_threads(1)

    def done(task: Task) -> Result:
        with torch.inference_mode():
            return work(task)

    try:
        with ThreadPoolExecutor(cores, thread_name_prefix="torch", initializer=alone) as pool:
            yield from pool.map(done, tasks)
    finally:
        torch.set_num_threads(cores)  # the number that threads started later begin with
