"""Torch's threads: which of them computes what."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


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
