"""Tiny untrained models of every kind, and random inputs for them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from models.contract.encoding import Tensors
from models.contract.schema import FeatureSchema
from models.ctr.build import Architecture, build_model
from models.ctr.fusion import Fusion
from tests.synthetic import SCHEMA

Kind = tuple[Architecture, Fusion]

KINDS: tuple[Kind, ...] = (("din", "target"), ("din", "learned"), ("dcnv2", "target"), ("deepfm", "target"))
ALL = ("text", "liber", "marc")
ITEM_ROWS = 30
DIM = 8


def model_of(kind: Kind, schema: FeatureSchema = SCHEMA, *, dropout: float = 0.0) -> nn.Module:
    """An untrained model whose weights are larger than at birth, so that every input shows in its answers."""
    torch.manual_seed(1)
    architecture, fusion = kind
    model = build_model(
        architecture, schema, ITEM_ROWS, dim=DIM, dropout=dropout, knowledge_dropout=dropout, fusion=fusion
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    return model


def inputs_of(
    users: int, candidates: int, schema: FeatureSchema = SCHEMA, *, seed: int = 0, events: int = 5, partitions: int = 2
) -> Tensors:
    """Random but possible inputs: so many users with so many events and partitions, and so many candidates."""
    generator = np.random.default_rng(seed)
    T = schema.history_length
    J, D = (schema.sequence.rows, schema.sequence.dim) if schema.sequence else (0, 0)
    present = np.repeat(np.arange(T)[None] < events, users, axis=0)
    closed = np.repeat(np.arange(J)[None] < partitions, users, axis=0)

    def fields(cardinalities: list[int], *shape: int) -> np.ndarray:
        return np.stack([generator.integers(0, one, shape) for one in cardinalities], axis=-1)

    def normal(*shape: int) -> np.ndarray:
        return generator.normal(size=shape).astype(np.float32)

    user_slots = [one.cardinality for one in schema.user_fields for _ in range(one.slots)]
    item_slots = [one.cardinality for one in schema.item_fields for _ in range(one.slots)]
    return {
        "user_categorical": fields(user_slots, users),
        "user_numeric": normal(users, 4),
        "history_index": generator.integers(0, ITEM_ROWS, (users, T)) * present,
        "history_categorical": fields(item_slots, users, T) * present[..., None],
        "history_value": normal(users, T) * present,
        "history_mask": present.astype(np.float32),
        "history_vectors": normal(users, T, schema.item_width) * present[..., None],
        "user_vectors": normal(users, schema.user_width),
        "partition_vectors": normal(users, J, D) * closed[..., None],
        "partition_mask": closed.astype(np.float32),
        "item_index": generator.integers(0, ITEM_ROWS, candidates),
        "item_categorical": fields(item_slots, candidates),
        "item_numeric": normal(candidates, 3),
        "item_vectors": normal(candidates, schema.item_width),
    }


def as_torch(tensors: Tensors) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in tensors.items()}


def logits_of(model: nn.Module, tensors: Tensors) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model.eval()(as_torch(tensors))
    return logits
