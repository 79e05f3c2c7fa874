"""Hilbert-Schmidt independence criterion between two samples, and its normalised form: MARC's information constraint.

Biased estimator with Gaussian kernels (Gretton et al. 2005). Near 0 for independent samples only where n is large
against the number of effective dimensions: Gaussian noise in hundreds of dimensions is nearly equidistant, its kernel
matrix nearly a multiple of the identity, and two such samples look alike. Compare values of one n and width only.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_TINY = 1e-12


def gaussian_kernel(x: Tensor) -> Tensor:
    """[n, n] of exp(-d^2 / (2 median^2)) of the rows of ``x`` [n, D].

    The median distance is a constant of the gradient; it is taken over the pairs of an even and an odd row,
    because on a CPU the median of all costs more than everything else here.
    """
    square = x.square().sum(1)
    # not cdist: the gradient of a root is infinite at the distance zero that duplicate rows have
    distances = (square[:, None] + square[None, :] - 2.0 * x @ x.T).clamp(min=0.0)
    bandwidth = 2.0 * distances.detach()[::2, 1::2].flatten().median().clamp(min=_TINY)
    return torch.exp(-distances / bandwidth)


def centred(kernel: Tensor) -> Tensor:
    """H K H of a kernel matrix [n, n]."""
    return kernel - kernel.mean(0, keepdim=True) - kernel.mean(1, keepdim=True) + kernel.mean()


def nhsic(x: Tensor, y: Tensor) -> Tensor:
    """Dependence of paired rows of ``x`` [n, D] and ``y`` [n, E]: HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)) in [0, 1].

    With HSIC = tr(K H L H) / (n - 1)^2 that is the cosine of the centred kernel matrices. 0 where a sample is constant;
    ValueError for fewer than two rows or samples of different sizes.
    """
    _check(x, y)
    return F.cosine_similarity(
        centred(gaussian_kernel(x)).flatten(), centred(gaussian_kernel(y)).flatten(), dim=0, eps=_TINY
    )


def _check(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 2:
        raise ValueError(f"HSIC needs two paired samples of at least two rows, got {tuple(x.shape)}, {tuple(y.shape)}")
