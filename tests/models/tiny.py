"""Tiny untrained models of every kind, and random inputs for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.contract import encoding
from models.contract.encoding import Tensors
from models.contract.schema import FeatureSchema
from models.ctr.build import Architecture, build_model
from models.ctr.features import ModelSettings
from models.ctr.layers import Fusion
from models.ctr.lifelong import Lifelong
from tests.plain_inputs import ITEM_INPUTS
from tests.synthetic import SCHEMA

Kind = tuple[Architecture, Fusion | Literal["inattentive", "implicit", "experts"]]
"""An architecture, and how it fuses partitions; or that it does without attention over the history, or without a
process of ratings; or that single vectors pass experts."""

KINDS: tuple[Kind, ...] = (
    ("din", "target"), ("din", "learned"), ("dcnv2", "target"), ("deepfm", "target"),
    ("lifelong", "target"), ("lifelong", "inattentive"), ("lifelong", "implicit"), ("lifelong", "learned"),
    ("din", "experts"), ("lifelong", "experts"),
)  # fmt: skip
ALL = ("text", "liber", "marc")
ITEM_ROWS = 30
DIM = 8


def model_of(kind: Kind, schema: FeatureSchema = SCHEMA, *, dropout: float = 0.0) -> nn.Module:
    """An untrained model whose weights are larger than at birth, so that every input shows in its answers."""
    torch.manual_seed(1)
    architecture, variant = kind
    fusion: Fusion = "learned" if variant == "learned" else "target"
    settings = ModelSettings(
        DIM, dropout, dropout, fusion, 0 if variant == "implicit" else DIM, variant != "inattentive",
        "experts" if variant == "experts" else "linear",
    )  # fmt: skip
    model = build_model(architecture, schema, ITEM_ROWS, settings)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    if isinstance(model, Lifelong) and model.process is not None:
        model.process.user.prepare()
    return model


def inputs_of(
    users: int,
    candidates: int,
    schema: FeatureSchema = SCHEMA,
    *,
    seed: int = 0,
    events: int = 5,
    partitions: int = 2,
    length: int | None = None,
) -> Tensors:
    """Random but possible inputs: so many users with so many events and partitions, and so many candidates. Histories
    are padded to ``length``, by default to the longest that the schema allows."""
    generator = np.random.default_rng(seed)
    T = schema.history_length if length is None else length
    J, D = (schema.sequence.rows, schema.sequence.dim) if schema.sequence else (0, 0)
    present = np.repeat(np.arange(T)[None] < events, users, axis=0)
    closed = np.repeat(np.arange(J)[None] < partitions, users, axis=0)

    def fields(cardinalities: list[int], *shape: int) -> np.ndarray:
        columns = [generator.integers(0, cardinality, (*shape, 1)) for cardinality in cardinalities]
        return np.concatenate([np.zeros((*shape, 0), np.int64), *columns], axis=-1)

    def normal(*shape: int) -> np.ndarray:
        return generator.normal(size=shape).astype(np.float32)

    user_slots = [spec.cardinality for spec in schema.user_fields for _ in range(spec.slots)]
    item_slots = [spec.cardinality for spec in schema.item_fields for _ in range(spec.slots)]
    tensors: Tensors = {
        "user_categorical": fields(user_slots, users),
        "user_numeric": normal(users, 4),
        "history_index": generator.integers(0, ITEM_ROWS, (users, T)) * present,
        "history_categorical": fields(item_slots, users, T) * present[..., None],
        "history_numeric": normal(users, T, schema.item_numbers) * present[..., None],
        "history_value": normal(users, T) * present,
        "history_mask": present.astype(np.float32),
        "history_vectors": normal(users, T, schema.item_width) * present[..., None],
        "user_vectors": normal(users, schema.user_width),
        "partition_vectors": normal(users, J, D) * closed[..., None],
        "partition_mask": closed.astype(np.float32),
        "item_index": generator.integers(0, ITEM_ROWS, candidates),
        "item_categorical": fields(item_slots, candidates),
        "item_numeric": normal(candidates, schema.item_numbers),
        "item_vectors": normal(candidates, schema.item_width),
    }
    if schema.running:
        numbers = 3 + len(schema.half_lives_ms) if schema.running.is_timed else 1
        hours = np.sort(generator.uniform(0, 1000, (users, T)).astype(np.float32))[:, ::-1]
        tensors |= {
            "user_running": normal(users, numbers),
            "history_hours": hours * present,
            "history_row": generator.integers(0, 7, (users, T)) * present,
            "item_row": generator.integers(0, 7, candidates),
        }
    return tensors


def histories_of(lengths: Sequence[int], schema: FeatureSchema = SCHEMA, *, seed: int = 0) -> Tensors:
    """Random whole histories of these lengths, as ``offline.training.sequences`` packs them; padding is noise."""
    B, L = len(lengths), max(lengths)
    users, events = inputs_of(B, 1, schema, seed=seed), inputs_of(1, B * L, schema, seed=seed + 1)
    generator = np.random.default_rng(seed)
    tensors: Tensors = {
        "user_categorical": users["user_categorical"],
        "user_vectors": generator.normal(size=(B, L, schema.user_width)).astype(np.float32),
        "history_numeric": generator.normal(size=(B, L, schema.item_numbers)).astype(np.float32),
        "value": generator.choice(np.array([-1.0, -0.5, 0.0, 0.5, 1.0], np.float32), (B, L)),
        "present": (np.arange(L)[None] < np.array(lengths)[:, None]).astype(np.float32),
    }
    if schema.sequence:
        versions = schema.sequence.rows + 3
        tensors["partition_vectors"] = generator.normal(size=(B, versions, schema.sequence.dim)).astype(np.float32)
        tensors["partition_counts"] = np.sort(generator.integers(0, versions + 1, (B, L)))
    if schema.running:
        tensors["time_ms"] = np.sort(generator.integers(0, 10**9, (B, L)))
        for name in ("user_numeric", "user_running"):
            tensors[name] = inputs_of(B * L, 1, schema, seed=seed + 2)[name].reshape(B, L, -1)
    names = [name for name in encoding.ITEM_INPUTS if name in events]
    return tensors | {name: events[name].reshape(B, L, *events[name].shape[1:]) for name in names}


def served(histories: Tensors, user: npt.NDArray[np.int64], at: npt.NDArray[np.int64]) -> Tensors:
    """The contract's inputs of event ``at[n]`` of history ``user[n]``, given those before it: aligned pairs."""
    present = np.arange(histories["value"].shape[1])[None] < at[:, None]

    def before(events: np.ndarray) -> np.ndarray:
        inside = present.reshape(*present.shape, *[1] * (events.ndim - 2))
        return np.where(inside, events[user], np.zeros((), events.dtype))

    others: Tensors = {}
    if "time_ms" in histories:
        hours = histories["time_ms"] / 3_600_000
        others = {
            "user_numeric": histories["user_numeric"][user, at],
            "user_running": histories["user_running"][user, at],
            "history_hours": np.where(present, hours[user, at][:, None] - hours[user], 0.0).astype(np.float32),
            "history_row": before(histories["item_row"]),
            "item_row": histories["item_row"][user, at],
        }
    if "partition_counts" in histories:
        others |= _last_partitions(histories, user, at)
    return others | {
        "user_categorical": histories["user_categorical"][user],
        "user_vectors": histories["user_vectors"][user, at],
        "history_index": before(histories["item_index"]),
        "history_categorical": before(histories["item_categorical"]),
        "history_numeric": before(histories["history_numeric"]),
        "history_value": before(histories["value"]),
        "history_mask": present.astype(np.float32),
        "history_vectors": before(histories["item_vectors"]),
        **{name: histories[name][user, at] for name in ITEM_INPUTS},
    }


def _last_partitions(histories: Tensors, user: npt.NDArray[np.int64], at: npt.NDArray[np.int64]) -> Tensors:
    """The inputs that hold partitions: the last ones that were closed by then, oldest first."""
    assert SCHEMA.sequence is not None
    most, counts = SCHEMA.sequence.rows, histories["partition_counts"][user, at]
    steps, present = np.arange(most)[None], np.minimum(counts, most)[:, None]
    places = np.where(steps < present, np.maximum(counts - most, 0)[:, None] + steps, 0)
    closed = (steps < present).astype(np.float32)
    vectors = histories["partition_vectors"][user[:, None], places] * closed[..., None]
    return {"partition_vectors": vectors, "partition_mask": closed}


def as_torch(tensors: Tensors) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in tensors.items()}


def logits_of(model: nn.Module, tensors: Tensors) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model.eval()(as_torch(tensors))
    return logits
