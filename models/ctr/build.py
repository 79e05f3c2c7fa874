"""A CTR model by name. No registry: the names are written out here."""

from __future__ import annotations

from typing import Literal

from torch import nn

from models.contract.encoding import model_inputs
from models.contract.schema import FeatureSchema
from models.ctr.dcn import DCNv2
from models.ctr.deepfm import DeepFM
from models.ctr.din import DIN
from models.ctr.features import InputEmbedding
from models.ctr.fusion import Fusion
from models.ctr.lifelong import Lifelong

Architecture = Literal["din", "dcnv2", "deepfm", "lifelong"]


_UNREAD: dict[Architecture, frozenset[str]] = {
    "din": frozenset({"history_numeric"}),
    "dcnv2": frozenset({"history_numeric"}),
    "deepfm": frozenset({"history_numeric"}),
    "lifelong": frozenset({"user_numeric", "partition_vectors", "partition_mask"}),
}


def reads(architecture: Architecture, schema: FeatureSchema) -> tuple[str, ...]:
    """Inputs that a model of this architecture and schema takes, in the order of the exported graph."""
    return tuple(name for name in model_inputs(schema) if name not in _UNREAD[architecture])


def build_model(
    architecture: Architecture,
    schema: FeatureSchema,
    item_rows: int,
    *,
    dim: int,
    dropout: float,
    knowledge_dropout: float,
    fusion: Fusion = "target",
    factors: int = 16,
    attention: bool = True,
) -> nn.Module:
    """An untrained model: ``item_rows`` id embeddings (row 0: unknown item). It reads all knowledge of the schema, but
    "lifelong" no sequence of vectors."""
    if architecture == "lifelong":
        return Lifelong(
            schema,
            item_rows,
            dim=dim,
            factors=factors,
            dropout=dropout,
            knowledge_dropout=knowledge_dropout,
            heads=4 if attention else 0,
        )
    embedding = InputEmbedding(schema, item_rows, dim, dropout, knowledge_dropout)
    match architecture:
        case "din":
            return DIN(embedding, dropout, fusion)
        case "dcnv2":
            return DCNv2(embedding, dropout)
        case "deepfm":
            return DeepFM(embedding, dropout)
