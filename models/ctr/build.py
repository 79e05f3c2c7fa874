"""A CTR model by name. No registry: the three names are written out here."""

from __future__ import annotations

from typing import Literal

from torch import nn

from models.contract.schema import FeatureSchema
from models.ctr.dcn import DCNv2
from models.ctr.deepfm import DeepFM
from models.ctr.din import DIN
from models.ctr.features import InputEmbedding
from models.ctr.fusion import Fusion

Architecture = Literal["din", "dcnv2", "deepfm"]


def build_model(
    architecture: Architecture,
    schema: FeatureSchema,
    item_rows: int,
    *,
    dim: int,
    dropout: float,
    knowledge_dropout: float,
    fusion: Fusion = "target",
) -> nn.Module:
    """An untrained model: ``item_rows`` id embeddings (row 0: unknown item). It reads all knowledge of the schema."""
    embedding = InputEmbedding(schema, item_rows, dim, dropout, knowledge_dropout)
    match architecture:
        case "din":
            return DIN(embedding, dropout, fusion)
        case "dcnv2":
            return DCNv2(embedding, dropout)
        case "deepfm":
            return DeepFM(embedding, dropout)
