"""Batches of padded texts."""

from __future__ import annotations

from offline.llm.in_process import padded_batches


def test_batches_hold_every_row_once_and_fit() -> None:
    lengths = [5, 1, 9, 3, 30, 2]
    found = list(padded_batches(lengths, 10))
    assert sorted(row for rows in found for row in rows) == list(range(6))
    assert all(max(lengths[row] for row in rows) * len(rows) <= 10 or len(rows) == 1 for rows in found)
