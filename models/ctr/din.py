"""Target attention over history and knowledge partitions: the DIN family (arXiv 1706.06978).

LIBER's partitions are fused by ``models.ctr.fusion``, by default per candidate.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.ctr.features import InputEmbedding, spread
from models.ctr.fusion import Fusion, InterestFusion
from models.ctr.layers import MLP, TargetAttention, masked_mean


class DIN(nn.Module):
    """Logits [C] of the contract's inputs."""

    def __init__(self, embedding: InputEmbedding, dropout: float, fusion: Fusion, heads: int = 4) -> None:
        super().__init__()
        self.embedding = embedding
        dim = embedding.dim
        item_width = embedding.item_width * dim
        self.history = TargetAttention(item_width, dim, 2 * dim, heads)
        width = embedding.user_width * dim + item_width + 2 * dim + dim
        if embedding.partition is not None:
            self.partitions = InterestFusion(fusion, item_width, dim, heads)
            width += dim
        self.norm = nn.LayerNorm(width)
        self.deep = MLP(width, (200, 80), dropout)
        self.out = nn.Linear(80, 1)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        e = self.embedding(inputs)
        C = e.item.shape[0]
        item = e.item.flatten(1)
        parts = [
            spread(e.user.flatten(1), C),
            item,
            self.history(item, e.history, e.history_mask),
            spread(masked_mean(e.history, e.history_mask), C),
        ]
        if e.partitions is not None and e.partition_mask is not None:
            parts.append(spread(self.partitions(item, e.partitions, e.partition_mask), C))
        logits: Tensor = self.out(self.deep(self.norm(torch.cat(parts, dim=1)))).squeeze(1)
        return logits
