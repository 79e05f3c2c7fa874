"""The CTR models that read a window of history, and any CTR model by its architecture's name.

DIN          target attention over history and knowledge partitions (arXiv 1706.06978)
DCNv2        a cross network beside a deep network over all field embeddings (arXiv 2008.13535)
DeepFM       a factorization machine and a deep network over the same (arXiv 1703.04247)
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from models.contract.encoding import KNOWLEDGE_INPUTS, model_inputs
from models.contract.schema import FeatureSchema
from models.ctr.features import InputEmbedding, ModelSettings, spread
from models.ctr.layers import MLP, CrossNetwork, Dropout, Fusion, InterestFusion, TargetAttention, masked_mean
from models.ctr.lifelong import Lifelong
from models.ctr.tree import BoostedTrees

Architecture = Literal["din", "dcnv2", "deepfm", "lifelong", "tree"]

_UNREAD: dict[Architecture, frozenset[str]] = {
    "din": frozenset({"history_numeric"}),
    "dcnv2": frozenset({"history_numeric"}),
    "deepfm": frozenset({"history_numeric"}),
    "lifelong": frozenset({"user_numeric"}),
    "tree": frozenset({"history_index", "item_index", *KNOWLEDGE_INPUTS}),
}


def reads(architecture: Architecture, schema: FeatureSchema) -> tuple[str, ...]:
    """Inputs that a model of this architecture and schema takes, in the order of the exported graph."""
    unread = _UNREAD[architecture]
    if schema.running:
        unread -= {"history_numeric", "user_numeric"}  # running features read them
    return tuple(name for name in model_inputs(schema) if name not in unread)


def build_model(
    architecture: Architecture, schema: FeatureSchema, item_rows: int, settings: ModelSettings
) -> nn.Module:
    """An untrained model: ``item_rows`` id embeddings (row 0: unknown item). It reads all knowledge of the schema, but
    "tree" none at all. ValueError for a tree of a schema without running
    features."""
    if architecture == "lifelong":
        return Lifelong(schema, item_rows, settings)
    if architecture == "tree":
        return BoostedTrees(schema)
    embedding = InputEmbedding(schema, item_rows, settings)
    match architecture:
        case "din":
            return DIN(embedding, settings.dropout, settings.fusion)
        case "dcnv2":
            return DCNv2(embedding, settings.dropout)
        case "deepfm":
            return DeepFM(embedding, settings.dropout)


class DIN(nn.Module):
    """Logits [C] of the contract's inputs. LIBER's partitions are fused by ``fusion``."""

    def __init__(self, embedding: InputEmbedding, dropout: float, fusion: Fusion) -> None:
        super().__init__()
        self.embedding = embedding
        dim = embedding.dim
        item_width = embedding.item_width * dim
        self.history = TargetAttention(item_width, dim, 2 * dim, heads=4)
        width = embedding.user_width * dim + item_width + 2 * dim + dim + embedding.running_width
        if embedding.partition is not None:
            self.partitions = InterestFusion(fusion, item_width, dim)
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
            e.running,
        ]
        if e.partitions is not None and e.partition_mask is not None:
            parts.append(spread(self.partitions(item, e.partitions, e.partition_mask), C))
        logits: Tensor = self.out(self.deep(self.norm(torch.cat(parts, dim=1)))).squeeze(1)
        return logits


class DCNv2(nn.Module):
    """Logits [C] of the contract's inputs."""

    def __init__(self, embedding: InputEmbedding, dropout: float) -> None:
        super().__init__()
        self.fields = AllFields(embedding)
        width = self.fields.count * embedding.dim + embedding.running_width
        self.cross = CrossNetwork(width, layers=3)
        self.deep = MLP(width, (200, 80), dropout)
        self.out = nn.Linear(width + 80, 1)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        fields, running = self.fields(inputs)
        x = torch.cat([fields.flatten(1), running], dim=1)
        logits: Tensor = self.out(torch.cat([self.cross(x), self.deep(x)], dim=1)).squeeze(1)
        return logits


class DeepFM(nn.Module):
    """Logits [C] of the contract's inputs. The first-order term is one linear layer over the concatenated fields.

    The second-order term (section 2), all pairwise inner products, is divided by the number of fields: numeric fields
    and pooled sequences are not as small as id embeddings are, and their plain sum of products overfits within an epoch
    (research/LOG.md).
    """

    def __init__(self, embedding: InputEmbedding, dropout: float) -> None:
        super().__init__()
        self.fields = AllFields(embedding)
        width = self.fields.count * embedding.dim + embedding.running_width
        self.dropout = Dropout(dropout)
        self.deep = MLP(width, (200, 80), dropout)
        self.out = nn.Linear(width + 80, 1)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        fields, running = self.fields(inputs)
        flat = torch.cat([fields.flatten(1), running], dim=1)
        linear = self.out(torch.cat([flat, self.deep(flat)], dim=1))
        factors = self.dropout(fields)
        pairs = 0.5 * (factors.sum(dim=1).square() - factors.square().sum(dim=1)).sum(dim=1, keepdim=True)
        logits: Tensor = (linear + pairs / fields.shape[1]).squeeze(1)
        return logits


class AllFields(nn.Module):
    """Every field as one [C, F, E] tensor, sequences pooled per user, and the running features [C, R]: the start of
    models without target attention."""

    def __init__(self, embedding: InputEmbedding) -> None:
        super().__init__()
        self.embedding = embedding
        self.count = embedding.user_width + embedding.item_width + 1
        if embedding.partition is not None:
            self.partitions = InterestFusion("learned", 0, embedding.dim)
            self.count += 1

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        e = self.embedding(inputs)
        user = [e.user, masked_mean(e.history, e.history_mask).unsqueeze(1)]
        if e.partitions is not None and e.partition_mask is not None:
            user.append(self.partitions(e.item, e.partitions, e.partition_mask).unsqueeze(1))
        return torch.cat([spread(torch.cat(user, dim=1), e.item.shape[0]), e.item], dim=1), e.running
