"""HSIC against the textbook formula, and the properties the constraint relies on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from offline.knowledge.marc.train import gaussian_kernel, nhsic


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def kernel_by_hand(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    distances = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
    between = np.sort(distances[::2, 1::2].ravel())
    middle = between[(len(between) - 1) // 2]
    return np.asarray(np.exp(-(distances**2) / (2 * middle**2)))


def hsic_by_hand(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    n = len(x)
    centring = np.eye(n) - np.ones((n, n)) / n
    return float(np.trace(kernel_by_hand(x) @ centring @ kernel_by_hand(y) @ centring) / (n - 1) ** 2)


def test_values_are_those_of_the_formula() -> None:
    x, y = drawn(37, 5), torch.cat([drawn(37, 2), drawn(37, 1, seed=2)], 1)
    a, b = x.double().numpy(), y.double().numpy()
    expected = hsic_by_hand(a, b) / np.sqrt(hsic_by_hand(a, a) * hsic_by_hand(b, b))
    assert nhsic(x, y).item() == pytest.approx(expected, rel=1e-3)


def test_the_kernel_has_ones_on_its_diagonal_and_the_median_distance_near_exp_minus_half() -> None:
    kernel = gaussian_kernel(drawn(201, 3))
    torch.testing.assert_close(kernel.diagonal(), torch.ones(201), atol=1e-4, rtol=0)
    away = kernel[~torch.eye(201, dtype=torch.bool)]
    assert away.median().item() == pytest.approx(np.exp(-0.5), abs=0.03)


def test_independent_samples_are_near_zero_and_equal_ones_at_one() -> None:
    x, y = drawn(512, 2), drawn(512, 2, seed=1)
    assert nhsic(x, y).item() < 0.03
    assert nhsic(x, x).item() == pytest.approx(1.0, abs=1e-5)


def test_a_dependence_without_correlation_is_seen() -> None:
    x = torch.linspace(-1.0, 1.0, 257)[:, None]
    assert abs(torch.corrcoef(torch.cat([x, x.square()], 1).T)[0, 1].item()) < 1e-5
    assert nhsic(x, x.square()).item() > 0.2


def test_size_place_and_order_of_both_do_not_matter() -> None:
    x, y = drawn(64, 4), drawn(64, 4).square()
    assert nhsic(7.0 * x + 3.0, y).item() == pytest.approx(nhsic(x, y).item(), abs=1e-4)
    assert nhsic(y, x).item() == pytest.approx(nhsic(x, y).item(), abs=1e-5)


def test_ascending_the_gradient_raises_the_dependence() -> None:
    x, y = drawn(128, 3), drawn(128, 3, seed=1).requires_grad_()
    before = nhsic(x, y)
    (gradient,) = torch.autograd.grad(before, y)
    assert nhsic(x, y + 10.0 * gradient / gradient.norm()).item() > before.item() + 0.02


def test_repeated_and_constant_rows_stay_finite() -> None:
    x = drawn(4, 3).repeat(16, 1).requires_grad_()
    value = nhsic(x, drawn(64, 3)) + nhsic(torch.zeros(64, 2), x)
    (gradient,) = torch.autograd.grad(value, x)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    assert nhsic(torch.ones(8, 2), drawn(8, 2)).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("shapes", [((1, 2), (1, 2)), ((3, 2), (4, 2)), ((3,), (3,))])
def test_what_is_no_paired_sample_is_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="two paired samples"):
        nhsic(torch.ones(shapes[0]), torch.ones(shapes[1]))
