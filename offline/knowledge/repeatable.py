"""Founding the same space again from the same data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Random numbers of torch from ``seed``, and gradients added in one order; afterwards both are as they were.

    The gradient of a gather (``table[rows]``) is otherwise added up by all threads as they come: the same data then
    founded another space in every run, although the seed was fixed (research/LOG.md, 2026-11-20).
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=True)  # an operation that has no such form is used as it is
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
