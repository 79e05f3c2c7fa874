"""Batches of texts that are padded to the longest of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


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
