"""DCNv2 (arXiv 2008.13535): a cross network beside a deep network over all field embeddings.

History is mean-pooled; partitions are fused into one vector per user by a learned query.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.ctr.features import InputEmbedding, spread
from models.ctr.fusion import InterestFusion
from models.ctr.layers import MLP, CrossNetwork, masked_mean


class DCNv2(nn.Module):
    """Logits [C] of the contract's inputs."""

    def __init__(self, embedding: InputEmbedding, dropout: float) -> None:
        super().__init__()
        self.fields = AllFields(embedding)
        width = self.fields.count * embedding.dim
        self.cross = CrossNetwork(width, layers=3)
        self.deep = MLP(width, (200, 80), dropout)
        self.out = nn.Linear(width + 80, 1)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        fields = self.fields(inputs).flatten(1)
        logits: Tensor = self.out(torch.cat([self.cross(fields), self.deep(fields)], dim=1)).squeeze(1)
        return logits


class AllFields(nn.Module):
    """Every field as one [C, F, E] tensor, sequences pooled per user: the start of models without target attention."""

    def __init__(self, embedding: InputEmbedding) -> None:
        super().__init__()
        self.embedding = embedding
        self.count = embedding.user_width + embedding.item_width + 1
        if embedding.partition is not None:
            self.partitions = InterestFusion("learned", 0, embedding.dim)
            self.count += 1

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        e = self.embedding(inputs)
        user = [e.user, masked_mean(e.history, e.history_mask).unsqueeze(1)]
        if e.partitions is not None and e.partition_mask is not None:
            user.append(self.partitions(e.item, e.partitions, e.partition_mask).unsqueeze(1))
        return torch.cat([spread(torch.cat(user, dim=1), e.item.shape[0]), e.item], dim=1)
