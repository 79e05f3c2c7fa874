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
inner products per candidate. The same numbers either way (tests/models/test_gaussian_process.py).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.contract.schema import FeatureSchema
from models.ctr.features import FieldEmbedding

_CHUNK = 64
"""Events that are whitened by one product; what came before them enters by one number per column."""


class RatingProcess(nn.Module):
    """Predictive mean and standard deviation of a user's value of an item, before it is known: the process with factors
    of real items. Values are the contract's normalised ones.

    An item's factors are free parameters plus linear functions of its fields and its knowledge; so is what everybody
    would say of it, its prior mean, which also reads its statistics. An item without an id embedding (new since the
    training) has the linear parts alone. A user's factors are expected to be a linear function of the profile before
    anything is known. Fitted by itself, by the likelihood of values one step ahead (``loss``), before the model that
    reads it.
    """

    def __init__(self, schema: FeatureSchema, item_rows: int, dim: int) -> None:
        super().__init__()
        self.factors = _ItemFunction(schema, item_rows, dim, 0.1)
        self.prior = _ItemFunction(schema, item_rows, 1, 0.0)
        self.statistics = nn.Linear(schema.item_numbers, 1)
        self.profile = FieldEmbedding(schema.user_fields, 1 + dim) if schema.user_fields else None
        self.user = UserProcess(schema.history_length)
        nn.init.normal_(self.factors.ids.weight, std=0.05)
        for table in [] if self.profile is None else self.profile.tables:
            nn.init.zeros_(table)

    def sequence(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and deviation [B, L] of every event of whole histories (``offline.training.sequences``)."""
        factors = self.factors(tensors, "item")
        prior = self._prior(tensors, "item", factors)
        residual = tensors["value"] - prior - self._statistics(tensors["history_numeric"])
        mean, deviation = self.user.one_step_ahead(factors, residual, tensors["present"])
        return mean + prior + self._statistics(tensors["item_numeric"]), deviation

    def loss(self, tensors: dict[str, Tensor], sample: Tensor) -> Tensor:
        """Summed negative log-likelihood of the values at ``sample`` [B, L], each given those before it."""
        mean, deviation = self.sequence(tensors)
        error = (tensors["value"] - mean) / deviation
        return (torch.log(deviation) + 0.5 * error.square())[sample].sum()

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and deviation [C] of the candidates of the contract's inputs."""
        history, candidates = self.factors(inputs, "history"), self.factors(inputs, "item")
        prior = self._prior(inputs, "history", history)
        residual = inputs["history_value"] - prior - self._statistics(inputs["history_numeric"])
        mean, deviation = self.user(history, residual, inputs["history_mask"], candidates)
        prior = self._prior(inputs, "item", candidates)
        return mean + prior + self._statistics(inputs["item_numeric"]), deviation

    def _prior(self, tensors: dict[str, Tensor], side: str, factors: Tensor) -> Tensor:
        """Expected values of items with these factors [.., d] from users of this profile, [..], without statistics."""
        prior: Tensor = self.prior(tensors, side).squeeze(-1)
        if self.profile is None:
            return prior
        profile = self.profile.summed(tensors["user_categorical"])
        if factors.dim() == 3:
            profile = profile.unsqueeze(1)
        return prior + (profile[..., 0] + (factors * profile[..., 1:]).sum(dim=-1))

    def _statistics(self, numeric: Tensor) -> Tensor:
        return self.statistics(numeric).squeeze(-1)  # type: ignore[no-any-return]


class _ItemFunction(nn.Module):
    """Items [..] -> [.., dim], from id, fields and knowledge."""

    def __init__(self, schema: FeatureSchema, item_rows: int, dim: int, spread: float) -> None:
        super().__init__()
        self.ids = nn.Embedding(item_rows, dim, padding_idx=0)
        nn.init.zeros_(self.ids.weight)
        self.fields = FieldEmbedding(schema.item_fields, dim)
        for table in self.fields.tables:
            nn.init.normal_(table, std=spread)
        self.knowledge = nn.Linear(schema.item_width, dim, bias=False) if schema.item_width else None
        if self.knowledge is not None:
            nn.init.normal_(self.knowledge.weight, std=0.02 * spread)

    def forward(self, tensors: dict[str, Tensor], side: str) -> Tensor:
        value: Tensor = self.ids(tensors[f"{side}_index"])
        value = sum(self.fields.columns(tensors[f"{side}_categorical"]), value)
        return value if self.knowledge is None else value + self.knowledge(tensors[f"{side}_vectors"])


class UserProcess(nn.Module):
    """The process's kernel. Factors come from outside, [.., d]; a constant is added to them here.

    ``events`` is the longest history that ``forward`` will see; ``prepare`` must have run since the last training step
    (it does when weights are loaded).
    """

    def __init__(self, events: int) -> None:
        super().__init__()
        self.log_mean, self.log_drift, self.log_noise, self.log_scale = (
            nn.Parameter(torch.tensor(math.log(initial))) for initial in (0.05, 0.04, 0.5, 50.0)
        )
        chunks = _chunks(events) + 1  # one more than is used: of all, the exporter would take the number for a constant
        self.within: Tensor
        self.entering: Tensor
        self.leaving: Tensor
        self.between: Tensor
        for name, shape in (
            ("within", (chunks, _CHUNK, _CHUNK)),
            ("entering", (chunks, _CHUNK, 1)),
            ("leaving", (chunks, 1, _CHUNK)),
            ("between", (chunks, chunks)),
        ):
            self.register_buffer(name, torch.zeros(shape), persistent=False)
        self.prepare()
        self.register_load_state_dict_post_hook(_prepare)  # type: ignore[no-untyped-call]

    def one_step_ahead(self, factors: Tensor, residual: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [B, L] of each event's residual given those before it.

        factors [B, L, d] and residual [B, L] (value minus what is expected without the user), oldest first; present
        [B, L] 1 or 0, padding at the end. An event's own residual does not enter its prediction.
        """
        factors = self._with_constant(factors) * present.unsqueeze(2)
        places = torch.arange(factors.shape[1], device=factors.device)
        both = present.unsqueeze(1) * present.unsqueeze(2)
        distance = (places.unsqueeze(0) - places.unsqueeze(1)).abs().float()
        drift = self.log_drift.exp() * torch.exp(-distance / self.log_scale.exp())
        kernel = factors @ factors.transpose(1, 2) + drift * both
        kernel = kernel + torch.diag_embed(self.log_noise.exp() * present + (1.0 - present))
        lower = torch.linalg.cholesky(kernel)
        innovation = torch.linalg.solve_triangular(lower, (residual * present).unsqueeze(2), upper=False).squeeze(2)
        deviation = lower.diagonal(dim1=1, dim2=2)
        return residual * present - innovation * deviation, deviation

    @torch.no_grad()
    def prepare(self) -> None:
        """Compute what ``forward`` needs of the kernel's own parameters, by Kalman's recursion for drift and noise.

        Before event i the drift is expected to be m_i; then m_{i+1} = keep_i m_i + take_i y_i, and whitened is
        (y_i - m_i) / deviation_i. All but m is the same for every user.
        """
        drift, noise, scale = (math.exp(float(log)) for log in (self.log_drift, self.log_noise, self.log_scale))
        decay, variance = math.exp(-1.0 / scale), drift
        steps = []
        for _ in range(self.between.shape[0] * _CHUNK):
            gain = variance / (variance + noise)
            steps.append((decay * (1.0 - gain), decay * gain, math.sqrt(variance + noise)))
            variance = decay * decay * (1.0 - gain) * variance + (1.0 - decay * decay) * drift
        keep, take, deviation = torch.tensor(steps, dtype=torch.float64).view(-1, _CHUNK, 3).unbind(2)
        # share[k, i, j]: what is left before event i of a chunk of what came in before event j of it; i goes to the end
        share = torch.cat([keep.new_zeros(len(keep), 1), keep.log().cumsum(dim=1)], dim=1)
        share = (share.unsqueeze(2) - share.unsqueeze(1)).exp().tril()
        weight = share[:, :, 1:].tril(-1) * take.unsqueeze(1)
        self.within.copy_((torch.eye(_CHUNK) - weight[:, :-1]) / deviation.unsqueeze(2))
        self.entering.copy_(share[:, :-1, :1] / deviation.unsqueeze(2))
        self.leaving.copy_(weight[:, -1:])
        chunk = torch.cat([keep.new_zeros(1), share[:, -1, 0].log().cumsum(dim=0)])
        self.between.copy_((chunk[:-1].unsqueeze(1) - chunk[1:].unsqueeze(0)).exp().tril(-1))

    def forward(self, factors: Tensor, residual: Tensor, present: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [C] of the candidates' residuals after the last event.

        factors [U, T, d], residual and present [U, T], candidates [C, d]; U is 1 or C.
        """
        T = factors.shape[1]
        candidates = self._with_constant(candidates)
        after = present.sum(dim=1, keepdim=True) - torch.arange(T, device=present.device)  # events until the candidate
        towards = self.log_drift.exp() * torch.exp(-after / self.log_scale.exp()) * present
        columns = [self._with_constant(factors), residual.unsqueeze(2)]
        seen = torch.cat([column * present.unsqueeze(2) for column in columns] + [towards.unsqueeze(2)], dim=2)
        white = self._whitened(seen) * present.unsqueeze(2)  # no event depends on later ones: padding is just cut off
        F, r, v = white[..., :-2], white[..., -2:-1], white[..., -1:]
        Ft = F.transpose(1, 2)
        precision, evidence = Ft @ F + torch.eye(F.shape[2], device=F.device), Ft @ r
        inverse = _inverse(precision)
        solved = inverse @ evidence
        solved = solved + inverse @ (evidence - precision @ solved)  # refined: single precision may have lost digits
        weights = solved.squeeze(2)  # [U, d]: the posterior mean of the user's factors
        shift = (Ft @ v).squeeze(2)
        drift = (v * r).sum(dim=(1, 2))
        shifted = candidates - shift
        mean = (shifted * weights).sum(dim=1) + drift
        spread = (_times(shifted, inverse) * shifted).sum(dim=1)
        variance = self.log_noise.exp() + self.log_drift.exp() - v.square().sum(dim=(1, 2)) + spread
        return mean, variance.clamp(min=1e-6).sqrt()

    def _whitened(self, columns: Tensor) -> Tensor:
        """Columns [U, T, c], each minus what drift and noise let expect of it, in standard deviations."""
        U, T, c = columns.shape
        n = _chunks(T)
        padded = torch.cat([columns, columns.new_zeros(U, 2 * _CHUNK - 1, c)], dim=1)
        chunks = padded[:, : n * _CHUNK].view(U, n, _CHUNK, c)
        left = torch.matmul(self.leaving[:n], chunks).squeeze(2)
        entered = torch.matmul(self.between[:n, :n], left).unsqueeze(2)
        white = torch.matmul(self.within[:n], chunks) - self.entering[:n] * entered
        return white.view(U, n * _CHUNK, c)[:, :T]

    def _with_constant(self, factors: Tensor) -> Tensor:
        return torch.cat([factors, (0.5 * self.log_mean).exp().expand(*factors.shape[:-1], 1)], dim=-1)


def _chunks(events: int) -> int:
    """In how many chunks so many events are whitened. Never one, which the exporter would take for a constant."""
    return (events + 2 * _CHUNK - 1) // _CHUNK


def _prepare(process: UserProcess, _: object) -> None:
    process.prepare()


def _times(rows: Tensor, matrices: Tensor) -> Tensor:
    """Rows [C, d] times their matrices [U, d, d]; U is 1 or C."""
    if matrices.shape[0] == 1:
        return rows @ matrices[0]
    return torch.matmul(rows.unsqueeze(1), matrices).squeeze(1)


def _inverse(matrix: Tensor) -> Tensor:
    """Inverses [U, d, d]. ONNX has no solver; ONNX Runtime has, as one of its own operators."""
    if torch.onnx.is_in_onnx_export():
        return torch.onnx.ops.symbolic(
            "com.microsoft::Inverse", (matrix,), dtype=matrix.dtype, shape=matrix.shape, version=1
        )
    return torch.linalg.inv_ex(matrix).inverse  # type: ignore[no-any-return]
