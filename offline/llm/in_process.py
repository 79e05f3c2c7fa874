"""What models in this process need, whatever for: silence, batches that pad little, a core for each batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
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


def padded_batches(lengths: Sequence[int], cells: int) -> Iterator[list[int]]:
    """Row numbers in batches of similar length, each of at most ``cells`` tokens, padding included, or of one row. The
    batches depend on nothing but the lengths."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda at: (lengths[at], at)):
        if batch and lengths[row] * (len(batch) + 1) > cells:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Show neither transformers' progress bars nor its advice; errors are raised, not logged, so none is lost."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def quiet_conversion() -> Iterator[None]:
    """As quiet_transformers; also hides the bar of the GGUF conversion, which listens to no setting."""
    from transformers import modeling_gguf_pytorch_utils as conversion

    shown = conversion.tqdm
    conversion.tqdm = partial(shown, disable=True)
    try:
        with quiet_transformers():
            yield
    finally:
        conversion.tqdm = shown
