"""Building blocks of the CTR models. Shapes: U users, C candidates, T sequence, F fields, E embedding, H heads.

Everything broadcasts over the user side: U is C in training (aligned pairs) and 1 in serving (one user, C candidates).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Fusion = Literal["target", "learned"]


class Dropout(nn.Module):
    """Dropout whose rate is a multiple of 1/256, drawn eight elements at a time from one 64-bit random number.

    torch draws one number per element, on one thread: a quarter of the time of training on a CPU.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.dropped = round(rate * 256)
        if not 0 <= self.dropped < 256:
            raise ValueError(f"a dropout of {rate} is not from 0 to 1")

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.dropped:
            return x
        draws = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        keep = draws.view(torch.uint8)[: x.numel()] >= self.dropped
        return x * keep.to(x.dtype).mul_(256 / (256 - self.dropped)).view(x.shape)


class MLP(nn.Sequential):
    """Linear - ReLU - dropout, once per width in ``hidden``. [.., n] -> [.., hidden[-1]]."""

    def __init__(self, width: int, hidden: tuple[int, ...], dropout: float) -> None:
        layers: list[nn.Module] = []
        for out in hidden:
            layers += [nn.Linear(width, out), nn.ReLU(), Dropout(dropout)]
            width = out
        super().__init__(*layers)

    def of_normed(self, norm: nn.LayerNorm, parts: Sequence[Tensor]) -> Tensor:
        """``self(norm(torch.cat(parts, dim=1)))`` of parts [n, ..], some of which may have one row that stands for n.
        Nothing is dropped.

        Given mean and deviation of a row, LayerNorm (arXiv 1607.06450) is affine and joins the linear function, of
        which the mean is one more column, and what the shared rows give another. A shared row is then paid for once:
        with 500 candidates of one user, that is more than half of the first layer. The first part is multiplied by
        itself: if it depends on the item alone, a service knows the product before the request
        (models/ctr/cut.py).

        The division by the deviation comes last: ``relu(s x + b) = s relu(x + b / s)`` for s > 0, and so on through the
        layers. The deviation itself passes them as one more column of what each reads, which brings its bias.
        """
        linears = [layer for layer in self if isinstance(layer, nn.Linear)]
        first, *later = linears
        weight = first.weight * norm.weight
        head, *others = zip(parts, torch.split(weight.T, [part.shape[1] for part in parts]), strict=True)
        shared = [pair for pair in others if pair[0].shape[0] == 1]
        own = [pair for pair in others if pair[0].shape[0] != 1]
        total, squares = _sums(parts[0])
        for part in parts[1:]:
            more, further = _sums(part)
            total, squares = total + more, squares + further
        mean = total / weight.shape[1]
        variance = squares / weight.shape[1] - mean * mean
        deviation = torch.sqrt(variance.clamp(min=0.0) + norm.eps)  # rounding may have left less than nothing
        rows = [deviation, mean, *(part for part, _ in own)]
        taken = [(first.weight @ norm.bias + first.bias).unsqueeze(0), -weight.sum(dim=1).unsqueeze(0)]
        taken += [table for _, table in own]
        if shared:
            rows.append(torch.ones_like(mean))
            taken.append(torch.stack([part @ table for part, table in shared]).sum(dim=0))
        x = torch.addmm(F.pad(head[0] @ head[1], (0, 1)), torch.cat(rows, dim=1), _passing(torch.cat(taken), 0))
        for layer in later:
            x = torch.relu(x) @ _passing(torch.cat([layer.weight.T, layer.bias.unsqueeze(0)]), -1)
        return torch.relu(x)[:, : linears[-1].out_features] / deviation


def _passing(table: Tensor, row: int) -> Tensor:
    """A matrix [k, n] with one more column: what a product with it reads for ``row``, unchanged."""
    return torch.cat([table, torch.eye(len(table), device=table.device)[:, [row]]], dim=1)


def _sums(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sums [n, 1] of rows and of their squares."""
    return x.sum(dim=1, keepdim=True), (x * x).sum(dim=1, keepdim=True)


class CrossNetwork(nn.Module):
    """Explicit feature crossing of DCNv2 (arXiv 2008.13535, section 3.2): x_{l+1} = x_0 * (W_l x_l + b_l) + x_l."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, x0: Tensor) -> Tensor:
        x = x0
        for layer in self.layers:
            x = x0 * layer(x) + x
        return x


class TargetAttention(nn.Module):
    """Multi-head attention of each candidate over its user's sequence.

    The DIN idea (arXiv 1706.06978, section 4.3) with scaled dot products in place of the MLP activation unit. A learned
    null entry takes the attention of users without a sequence, so an empty sequence needs no special case.

    The same numbers are computed in two orders. Where many candidates share a sequence, it is projected to keys and
    values once, and each candidate costs two small matrix products: one user in serving, whole histories in training.
    With a sequence per candidate the projections are applied to the query and to the pooled sequence instead, which
    spares them for all T entries.
    """

    def __init__(self, query: int, key: int, out: int, heads: int) -> None:
        super().__init__()
        if out % heads:
            raise ValueError(f"{heads} heads do not share {out} dimensions evenly")
        self.heads, self.width = heads, out // heads
        self.query = nn.Linear(query, out)
        self.key = nn.Linear(key, out, bias=False)
        self.value = nn.Linear(key, out, bias=False)
        self.null_score = nn.Parameter(torch.zeros(heads))
        self.null_value = nn.Parameter(torch.zeros(heads, out // heads))

    def forward(self, query: Tensor, sequence: Tensor, mask: Tensor) -> Tensor:
        """query [C, q], sequence [U, T, k], mask [U, T] (1 present) -> [C, out]; or with Q candidates of each of B
        sequences, query [B, Q, q], sequence [B, T, k], mask [B, Q, T] -> [B, Q, out]."""
        q = self.query(query).view(*query.shape[:-1], self.heads, self.width) / self.width**0.5
        if query.dim() == 3:
            return self._shared(q, sequence, mask).flatten(2)
        if sequence.shape[0] == 1:
            return self._shared(q.unsqueeze(0), sequence, mask.unsqueeze(1)).flatten(2).squeeze(0)
        return self._aligned(q, sequence, mask).flatten(1)

    def _shared(self, q: Tensor, sequence: Tensor, mask: Tensor) -> Tensor:
        """q [B, Q, H, w], sequence [B, T, k], mask [B, Q or 1, T] -> [B, Q, H, w]."""
        keys = self.key(sequence).view(*sequence.shape[:2], self.heads, self.width)
        values = self.value(sequence).view(*sequence.shape[:2], self.heads, self.width)
        scores = torch.matmul(q.transpose(1, 2), keys.permute(0, 2, 3, 1)) + _absent(mask).unsqueeze(1)  # [B, H, Q, T]
        weights = self._weights(scores.transpose(1, 2))
        pooled = torch.matmul(weights[..., 1:].transpose(1, 2), values.transpose(1, 2)).transpose(1, 2)
        return pooled + weights[..., :1] * self.null_value

    def _aligned(self, q: Tensor, sequence: Tensor, mask: Tensor) -> Tensor:
        """q [C, H, w], sequence [C, T, k], mask [C, T] -> [C, H, w]."""
        key = self.key.weight.view(self.heads, self.width, -1)
        value = self.value.weight.view(self.heads, self.width, -1)
        scores = torch.bmm(torch.einsum("chw,hwk->chk", q, key), sequence.transpose(1, 2)) + _absent(mask).unsqueeze(1)
        weights = self._weights(scores)
        pooled = torch.einsum("chk,hwk->chw", torch.bmm(weights[:, :, 1:], sequence), value)
        return pooled + weights[:, :, :1] * self.null_value

    def _weights(self, scores: Tensor) -> Tensor:
        """scores [.., H, T] -> weights [.., H, 1 + T], the null entry first."""
        null = self.null_score.unsqueeze(1).expand(*scores.shape[:-1], 1)
        return F.softmax(torch.cat([null, scores], dim=-1), dim=-1)


class InterestFusion(nn.Module):
    """LIBER's user interest fusion (our reading of arXiv 2411.14713): partition vectors -> one interest vector.
    item [C, q], partitions [U, J, E], mask [U, J] -> [C, E] ("target") or [U, E] ("learned"); of whole histories item
    [B, L, q], partitions [B, V, E], mask [B, L, V] -> [B, L, E].

    h_j = MLP(x_j); u = sum_j a_j h_j. The weights a_j come from a learned query ("learned": one vector per user,
    whatever the candidate) or from the candidate ("target"). Trained with the loss of the CTR model it is part of; the
    text encoder stays frozen.
    """

    def __init__(self, kind: Fusion, query: int, dim: int) -> None:
        super().__init__()
        self.kind = kind
        self.interest = nn.Sequential(nn.ReLU(), nn.Linear(dim, dim))
        self.attention = TargetAttention(query if kind == "target" else dim, dim, dim, heads=math.gcd(4, dim))
        if kind == "learned":
            self.query = nn.Parameter(torch.randn(1, dim) * 0.05)

    def forward(self, item: Tensor, partitions: Tensor, mask: Tensor) -> Tensor:
        query = item
        if self.kind == "learned":
            query = self.query.expand(*mask.shape[:-1], -1)
        fused: Tensor = self.attention(query, self.interest(partitions), mask)
        return fused


def _absent(mask: Tensor) -> Tensor:
    """Addends of the scores of entries: nothing where one is present, a huge negative number where it is padding."""
    return (mask - 1.0) * 1e9


def masked_mean(sequence: Tensor, mask: Tensor) -> Tensor:
    """Mean over T of the present entries: [U, T, E], [U, T] -> [U, E]; zeros where nothing is present."""
    return (sequence * mask.unsqueeze(2)).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1.0)
