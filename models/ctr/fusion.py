"""LIBER's user interest fusion (our reading of arXiv 2411.14713): partition vectors -> one interest vector.

h_j = MLP(x_j); u = sum_j a_j h_j. The weights a_j come from a learned query ("learned": one vector per user, whatever
the candidate) or from the candidate ("target"). Trained with the loss of the CTR model it is part of; the text encoder
stays frozen.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from models.ctr.layers import TargetAttention

Fusion = Literal["target", "learned"]


class InterestFusion(nn.Module):
    """item [C, q], partitions [U, J, E], mask [U, J] -> [C, E] ("target") or [U, E] ("learned")."""

    def __init__(self, kind: Fusion, query: int, dim: int, heads: int = 4) -> None:
        super().__init__()
        self.kind = kind
        self.interest = nn.Sequential(nn.ReLU(), nn.Linear(dim, dim))
        self.attention = TargetAttention(query if kind == "target" else dim, dim, dim, heads)
        if kind == "learned":
            self.query = nn.Parameter(torch.randn(1, dim) * 0.05)

    def forward(self, item: Tensor, partitions: Tensor, mask: Tensor) -> Tensor:
        query = item if self.kind == "target" else self.query.expand(partitions.shape[0], -1)
        fused: Tensor = self.attention(query, self.interest(partitions), mask)
        return fused
