"""DCNv2 (arXiv 2008.13535): a cross network beside a deep network over all field embeddings; history is mean-pooled."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.ctr.features import InputEmbedding, spread
from models.ctr.layers import MLP, CrossNetwork, masked_mean


class DCNv2(nn.Module):
    """Logits [C] of the contract's inputs."""

    def __init__(self, embedding: InputEmbedding, dropout: float) -> None:
        super().__init__()
        self.embedding = embedding
        fields = embedding.user_width + embedding.item_width + 1 + int(embedding.knowledge)
        width = fields * embedding.dim
        self.cross = CrossNetwork(width, layers=3)
        self.deep = MLP(width, (200, 80), dropout)
        self.out = nn.Linear(width + 80, 1)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        fields = all_fields(self.embedding, inputs).flatten(1)
        logits: Tensor = self.out(torch.cat([self.cross(fields), self.deep(fields)], dim=1)).squeeze(1)
        return logits


def all_fields(embedding: InputEmbedding, inputs: dict[str, Tensor]) -> Tensor:
    """Every field as one [C, F, E] tensor, sequences mean-pooled: what models without attention start from."""
    e = embedding(inputs)
    C = e.item.shape[0]
    user = [e.user, masked_mean(e.history, e.history_mask).unsqueeze(1)]
    if e.partitions is not None and e.partition_mask is not None:
        user.append(masked_mean(e.partitions, e.partition_mask).unsqueeze(1))
    return torch.cat([spread(torch.cat(user, dim=1), C), e.item], dim=1)
