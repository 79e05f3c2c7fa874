"""A CTR model by name. No registry: the three names are written out here."""

from __future__ import annotations

from typing import Literal

from torch import nn

from models.contract.encoding import INPUTS
from models.contract.schema import FeatureSchema
from models.ctr.dcn import DCNv2
from models.ctr.deepfm import DeepFM
from models.ctr.din import DIN
from models.ctr.features import KNOWLEDGE_INPUTS, InputEmbedding

Architecture = Literal["din", "dcnv2", "deepfm"]


def build_model(
    architecture: Architecture,
    schema: FeatureSchema,
    item_rows: int,
    *,
    dim: int,
    dropout: float,
    knowledge: bool,
    knowledge_dropout: float,
) -> nn.Module:
    """An untrained model with ``item_rows`` id embeddings (row 0: unknown item)."""
    embedding = InputEmbedding(schema, item_rows, dim, dropout, knowledge, knowledge_dropout)
    match architecture:
        case "din":
            return DIN(embedding, dropout)
        case "dcnv2":
            return DCNv2(embedding, dropout)
        case "deepfm":
            return DeepFM(embedding, dropout)


def model_inputs(knowledge: bool) -> tuple[str, ...]:
    """Names of the inputs a model reads, in the contract's order."""
    return tuple(name for name in INPUTS if knowledge or name not in KNOWLEDGE_INPUTS)
