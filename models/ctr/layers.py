"""Building blocks of the CTR models. Shapes: U users, C candidates, T sequence, F fields, E embedding, H heads.

Everything broadcasts over the user side: U is C in training (aligned pairs) and 1 in serving (one user, C candidates).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MLP(nn.Sequential):
    """Linear - ReLU - dropout, once per width in ``hidden``. [.., n] -> [.., hidden[-1]]."""

    def __init__(self, width: int, hidden: tuple[int, ...], dropout: float) -> None:
        layers: list[nn.Module] = []
        for out in hidden:
            layers += [nn.Linear(width, out), nn.ReLU(), nn.Dropout(dropout)]
            width = out
        super().__init__(*layers)


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


class FactorizationMachine(nn.Module):
    """Second-order term of DeepFM (arXiv 1703.04247, section 2): all pairwise inner products. [C, F, E] -> [C, 1]."""

    def forward(self, fields: Tensor) -> Tensor:
        total = fields.sum(dim=1)
        return 0.5 * (total.square() - fields.square().sum(dim=1)).sum(dim=1, keepdim=True)


class TargetAttention(nn.Module):
    """Multi-head attention of each candidate over its user's sequence.

    The DIN idea (arXiv 1706.06978, section 4.3) with scaled dot products in place of the MLP activation unit: keys
    and values are computed once per user, and a candidate costs two small matrix products. A learned null entry takes
    the attention of users without a sequence, so an empty sequence needs no special case.
    """

    def __init__(self, query: int, key: int, out: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, out // heads
        self.query = nn.Linear(query, out)
        self.key = nn.Linear(key, out)
        self.value = nn.Linear(key, out)
        self.null_score = nn.Parameter(torch.zeros(heads))
        self.null_value = nn.Parameter(torch.zeros(heads, out // heads))

    def forward(self, query: Tensor, sequence: Tensor, mask: Tensor) -> Tensor:
        """query [C, q], sequence [U, T, k], mask [U, T] (1 present) -> [C, out]."""
        C, (U, T, _) = query.shape[0], sequence.shape
        q = self.query(query).view(C, self.heads, self.width) / self.width**0.5
        k = self.key(sequence).view(U, T, self.heads, self.width)
        v = self.value(sequence).view(U, T, self.heads, self.width)
        absent = (mask - 1.0) * 1e9
        if U == 1:  # serving: one user for all candidates, plain matrix products per head
            scores = torch.matmul(q.transpose(0, 1), k[0].permute(1, 2, 0)) + absent  # [H, C, T]
            null = self.null_score.view(self.heads, 1, 1).expand(self.heads, C, 1)
            weights = F.softmax(torch.cat([null, scores], dim=2), dim=2)
            pooled = torch.matmul(weights[:, :, 1:], v[0].transpose(0, 1))  # [H, C, width]
            pooled = pooled + weights[:, :, :1] * self.null_value.unsqueeze(1)
            return pooled.transpose(0, 1).reshape(C, self.heads * self.width)
        scores = torch.einsum("chd,cthd->cht", q, k) + absent.unsqueeze(1)
        null = self.null_score.view(1, self.heads, 1).expand(C, self.heads, 1)
        weights = F.softmax(torch.cat([null, scores], dim=2), dim=2)
        pooled = torch.einsum("cht,cthd->chd", weights[:, :, 1:], v) + weights[:, :, :1] * self.null_value
        return pooled.reshape(C, self.heads * self.width)


def masked_mean(sequence: Tensor, mask: Tensor) -> Tensor:
    """Mean over T of the present entries: [U, T, E], [U, T] -> [U, E]; zeros where nothing is present."""
    return (sequence * mask.unsqueeze(2)).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1.0)
