"""Dropout: what it keeps, how often, and from which random numbers. An MLP upon a norm: the same for shared rows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.ctr.layers import MLP, Dropout


def dropped(rate: float, seed: int = 0, shape: tuple[int, ...] = (50, 41, 7)) -> torch.Tensor:
    torch.manual_seed(seed)
    output: torch.Tensor = Dropout(rate).train()(torch.ones(shape))
    return output


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9])
def test_the_mean_stays_and_the_rate_is_kept(rate: float) -> None:
    output = dropped(rate)
    assert output.shape == (50, 41, 7)
    nearest = round(rate * 256) / 256
    assert sorted(set(output.flatten().tolist())) == pytest.approx([0.0, 1 / (1 - nearest)])
    assert (output == 0).float().mean().item() == pytest.approx(nearest, abs=0.015)
    # neighbours come from one random number; they are independent all the same
    zero = (output.flatten() == 0).float()
    assert torch.corrcoef(torch.stack([zero[:-1], zero[1:]]))[0, 1].abs().item() < 0.03


def test_it_follows_the_seed_of_torch() -> None:
    assert torch.equal(dropped(0.3, seed=4), dropped(0.3, seed=4))
    assert not torch.equal(dropped(0.3, seed=4), dropped(0.3, seed=5))


def test_the_gradient_passes_what_was_kept() -> None:
    x = torch.ones(100, requires_grad=True)
    output = Dropout(0.5).train()(x)
    output.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, output.detach())


def test_nothing_is_dropped_in_evaluation_or_at_rate_zero() -> None:
    x = torch.randn(9, 3)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0).train()(x), x)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="not from 0 to 1"):
        Dropout(rate)


@pytest.mark.parametrize("rows", [(1, 500, 500), (500, 1, 1), (500, 500, 500), (500,), (1, 1), (500, 1, 500, 1)])
def test_shared_rows_are_as_if_repeated(rows: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    widths = (9, 30, 4, 17)[: len(rows)]
    norm, mlp = nn.LayerNorm(sum(widths)), MLP(sum(widths), (20, 8), 0.5).eval()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    parts = [torch.randn(n, width) + 3.0 for n, width in zip(rows, widths, strict=True)]
    expected = mlp(norm(torch.cat([part.expand(max(rows), -1) for part in parts], dim=1)))
    torch.testing.assert_close(mlp.of_normed(norm, parts), expected, rtol=1e-4, atol=1e-5)
