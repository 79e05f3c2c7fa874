"""Batches of padded texts; fits that depend neither on threads nor on who drew random numbers before."""

from __future__ import annotations

import torch

from offline.llm.in_process import padded_batches, repeatable


def gradient(table: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    table.grad = None
    (table[rows] * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert table.grad is not None
    return table.grad.clone()


def test_gradients_of_a_gather_are_the_same_in_every_run() -> None:
    """300,000 rows gathered from 300: enough for several threads, which by default disagree."""
    torch.manual_seed(0)
    table = torch.randn(300, 32, requires_grad=True)
    rows, weights = torch.randint(0, 300, (20_000, 15)), torch.randn(20_000, 15, 32)
    with repeatable(1):
        first, *others = (gradient(table, rows, weights) for _ in range(4))
    for other in others:
        assert torch.equal(first, other)


def test_the_seed_decides_and_the_process_keeps_its_own_numbers() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with repeatable(1):
        seeded = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with repeatable(1):
        assert torch.equal(torch.rand(3), seeded)
        assert torch.are_deterministic_algorithms_enabled()
    with repeatable(2):
        assert not torch.equal(torch.rand(3), seeded)
    assert not torch.are_deterministic_algorithms_enabled()


def test_batches_hold_every_row_once_and_fit() -> None:
    lengths = [5, 1, 9, 3, 30, 2]
    batches = list(padded_batches(lengths, 10))
    assert sorted(row for rows in batches for row in rows) == list(range(6))
    assert all(max(lengths[row] for row in rows) * len(rows) <= 10 or len(rows) == 1 for rows in batches)
