"""Models in this process, whatever for: loading in silence, batches that pad little, a core each, repeatable fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from offline.libraries import wait_without_spinning
from offline.llm.arithmetic import Precision, torch_dtype

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

    def done(task: Task) -> Result:
        with torch.inference_mode():
            return work(task)

    try:
        with ThreadPoolExecutor(cores, "torch", torch.set_num_threads, (1,)) as pool:
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


def load_model(
    folder: Path | str, precision: Precision, *, causal: bool = False, device: str | None = None
) -> tuple[Any, Any]:
    """(tokenizer, model) of a transformers folder, ready for use; ``device`` None: a GPU if torch finds one. A model
    that is ``causal`` has its language head."""
    wait_without_spinning()
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        kind = AutoModelForCausalLM if causal else AutoModel
        model = kind.from_pretrained(folder, local_files_only=True, dtype=torch_dtype(precision, device))
    return tokenizer, model.to(device).eval()


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Fit the same from the same data: torch's random numbers come from ``seed``, and gradients are added in one order;
    afterwards both are as they were.

    The gradient of a gather (``table[rows]``) is otherwise added up by all threads as they come: the same data then
    made another space in every run, although the seed was fixed (research/LOG.md, 2026-11-20).
    """
    import torch

    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=True)  # an operation that has no such form is used as it is
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])


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
