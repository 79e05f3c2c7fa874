"""DeepFM (arXiv 1703.04247): a factorization machine and a deep network over the same field embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.ctr.dcn import AllFields
from models.ctr.features import InputEmbedding
from models.ctr.layers import MLP, Dropout, FactorizationMachine


class DeepFM(nn.Module):
    """Logits [C] of the contract's inputs. The first-order term is one linear layer over the concatenated fields.

    The second-order term is divided by the number of fields: numeric fields and pooled sequences are not as small as id
    embeddings are, and their plain sum of products overfits within an epoch (research/LOG.md).
    """

    def __init__(self, embedding: InputEmbedding, dropout: float) -> None:
        super().__init__()
        self.fields = AllFields(embedding)
        width = self.fields.count * embedding.dim
        self.second_order = FactorizationMachine()
        self.dropout = Dropout(dropout)
        self.deep = MLP(width, (200, 80), dropout)
        self.out = nn.Linear(width + 80, 1)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        fields = self.fields(inputs)
        flat = fields.flatten(1)
        linear = self.out(torch.cat([flat, self.deep(flat)], dim=1))
        logits: Tensor = (linear + self.second_order(self.dropout(fields)) / fields.shape[1]).squeeze(1)
        return logits
