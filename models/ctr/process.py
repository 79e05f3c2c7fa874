"""Ratings of one user as a Gaussian process over items: matrix factorisation with the user's factors integrated out.

Lawrence and Urtasun, "Non-linear matrix factorization with Gaussian processes" (ICML 2009), with three changes: item
factors are also a linear function of the item's fields and knowledge, so that new items have some; a slowly drifting
mean per user joins the kernel (Koren, KDD 2009, has drifting biases); and the likelihood is taken one step ahead, in
the order of the log, which is what serving needs.

For events i, j of one user, n events apart, with item factors f (the constant 1 among them, which is the user's mean)::

    cov(y_i, y_j) = <f_i, f_j> + drift * exp(-n / scale) + noise * [i = j]

No user has parameters: what is known of a user is the posterior given the history, computed anew for every request.
Training wants the prediction before each event of a history of L: one Cholesky factor gives them all. Serving wants
many candidates after the last event: in the space of factors that is one small linear system per user, and two short
inner products per candidate. The same numbers either way (tests/models/test_process.py).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_INVERSE_STEPS = 20
"""Of Newton's iteration for the inverse of a d x d matrix, in place of a solver, which ONNX has not. Each of the first
steps doubles the share of the smallest eigenvalue (enough for condition numbers up to about 2**14), the last ones
square the error."""


class UserProcess(nn.Module):
    """The process's kernel. Factors come from outside, [.., d]; a constant is added to them here.

    ``events`` is the longest history that ``forward`` will see; ``prepare`` must have run since the last training step
    (it does when weights are loaded).
    """

    def __init__(self, events: int) -> None:
        super().__init__()
        self.log_mean, self.log_drift, self.log_noise, self.log_scale = (
            nn.Parameter(torch.tensor(math.log(one))) for one in (0.05, 0.04, 0.5, 50.0)
        )
        self.whitening: Tensor
        # One more row than is used: exported with T = events, a slice of all rows would make T a constant.
        self.register_buffer("whitening", torch.eye(events + 1), persistent=False)
        self.register_load_state_dict_post_hook(_prepare)  # type: ignore[no-untyped-call]

    def one_step_ahead(self, factors: Tensor, residual: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [B, L] of each event's residual given those before it.

        factors [B, L, d] and residual [B, L] (value minus what is expected without the user), oldest first; present
        [B, L] 1 or 0, padding at the end. An event's own residual does not enter its prediction.
        """
        factors = self._with_constant(factors) * present.unsqueeze(2)
        places = torch.arange(factors.shape[1], device=factors.device)
        both = present.unsqueeze(1) * present.unsqueeze(2)
        kernel = factors @ factors.transpose(1, 2) + self._drift(places) * both
        kernel = kernel + torch.diag_embed(self.log_noise.exp() * present + (1.0 - present))
        lower = torch.linalg.cholesky(kernel)
        innovation = torch.linalg.solve_triangular(lower, (residual * present).unsqueeze(2), upper=False).squeeze(2)
        deviation = lower.diagonal(dim1=1, dim2=2)
        return residual * present - innovation * deviation, deviation

    @torch.no_grad()
    def prepare(self) -> None:
        """Compute what ``forward`` needs of the kernel's own parameters."""
        places = torch.arange(self.whitening.shape[0])
        own = self._drift(places).double() + torch.eye(len(places), dtype=torch.float64) * self.log_noise.exp().double()
        self.whitening.copy_(torch.linalg.inv(torch.linalg.cholesky(own)).float())

    def forward(self, factors: Tensor, residual: Tensor, present: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [C] of the candidates' residuals after the last event.

        factors [U, T, d], residual and present [U, T], candidates [C, d]; U is 1 or C.
        """
        T = factors.shape[1]
        candidates = self._with_constant(candidates)
        whitening = self.whitening[:T, :T]
        after = present.sum(dim=1, keepdim=True) - torch.arange(T, device=present.device)  # events until the candidate
        towards = self.log_drift.exp() * torch.exp(-after / self.log_scale.exp()) * present
        seen = torch.cat(
            [
                self._with_constant(factors) * present.unsqueeze(2),
                (residual * present).unsqueeze(2),
                towards.unsqueeze(2),
            ],
            dim=2,
        )
        # Leading blocks of a whitening matrix whiten shorter histories, so padding at the end only has to be cut off.
        white = torch.matmul(whitening, seen) * present.unsqueeze(2)
        F, r, v = white[..., :-2], white[..., -2:-1], white[..., -1:]
        Ft = F.transpose(1, 2)
        precision, told = Ft @ F + torch.eye(F.shape[2], device=F.device), Ft @ r
        inverse = _inverse(precision)
        solved = inverse @ told
        solved = solved + inverse @ (told - precision @ solved)  # refined: the inverse has three digits at worst
        weights = solved.squeeze(2)  # [U, d]: the posterior mean of the user's factors
        shift = (Ft @ v).squeeze(2)
        drift = (v * r).sum(dim=(1, 2))
        apart = candidates - shift
        mean = (apart * weights).sum(dim=1) + drift
        spread = (torch.matmul(apart.unsqueeze(1), inverse).squeeze(1) * apart).sum(dim=1)
        variance = self.log_noise.exp() + self.log_drift.exp() - v.square().sum(dim=(1, 2)) + spread
        return mean, variance.clamp(min=1e-6).sqrt()

    def _with_constant(self, factors: Tensor) -> Tensor:
        return torch.cat([factors, (0.5 * self.log_mean).exp().expand(*factors.shape[:-1], 1)], dim=-1)

    def _drift(self, places: Tensor) -> Tensor:
        apart = (places.unsqueeze(0) - places.unsqueeze(1)).abs().float()
        return self.log_drift.exp() * torch.exp(-apart / self.log_scale.exp())


def _prepare(process: UserProcess, _: object) -> None:
    process.prepare()


def _inverse(matrix: Tensor) -> Tensor:
    """The inverse [U, d, d] of symmetric positive definite matrices, by Newton's iteration (Schulz 1933)."""
    two = 2.0 * torch.eye(matrix.shape[1], device=matrix.device)
    guess = two / matrix.abs().sum(dim=2).amax(dim=1).view(-1, 1, 1) * 0.5
    for _ in range(_INVERSE_STEPS):
        guess = guess @ (two - matrix @ guess)
    return guess
