"""The CTR models: broadcasting, empty sequences, any choice of knowledge, both fusions, gradients. What only models of
whole histories do: test_lifelong.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models.contract.encoding import KNOWLEDGE_INPUTS, Tensors
from models.contract.schema import FeatureSchema
from models.ctr.build import build_model, reads
from models.ctr.features import ModelSettings
from models.ctr.layers import InterestFusion
from tests.models.tiny import ALL, DIM, ITEM_ROWS, KINDS, Kind, as_torch, inputs_of, logits_of, model_of
from tests.plain_inputs import INPUTS, ITEM_INPUTS, USER_INPUTS
from tests.synthetic import SCHEMA

CHOICES: tuple[tuple[str, ...], ...] = (ALL, (), ("liber",), ("marc",), ("text",), ("text", "marc"))
"""Everything; nothing; a sequence alone; single vectors on both sides; items alone; two item spaces."""

of_every_kind = pytest.mark.parametrize("kind", KINDS, ids="-".join)
of_every_choice = pytest.mark.parametrize("producers", CHOICES, ids=lambda producers: "+".join(producers) or "none")


@of_every_kind
@of_every_choice
@pytest.mark.parametrize(("events", "partitions"), [(5, 2), (0, 2), (5, 0), (0, 0), (8, 3)])
def test_one_user_for_all_equals_aligned_pairs(
    kind: Kind, producers: tuple[str, ...], events: int, partitions: int
) -> None:
    schema = SCHEMA.with_knowledge(producers)
    model = model_of(kind, schema)
    alone = inputs_of(1, 6, schema, events=events, partitions=partitions)
    aligned = {**alone, **{name: alone[name].repeat(6, axis=0) for name in USER_INPUTS}}
    logits = logits_of(model, alone)
    assert logits.shape == (6,)
    assert torch.isfinite(logits).all()
    assert len(set(logits.tolist())) == 6
    torch.testing.assert_close(logits, logits_of(model, aligned), rtol=1e-5, atol=1e-5)


@of_every_kind
def test_padding_says_nothing(kind: Kind) -> None:
    model = model_of(kind)
    clean = inputs_of(1, 4)
    noise = inputs_of(1, 4, seed=9, events=8, partitions=3)
    dirty = dict(clean)
    for mask, names in (
        (
            "history_mask",
            ("history_index", "history_categorical", "history_numeric", "history_value", "history_vectors"),
        ),
        ("partition_mask", ("partition_vectors",)),
    ):
        for name in names:
            present = clean[mask].reshape(*clean[mask].shape, *[1] * (clean[name].ndim - 2)) > 0
            padded = clean[name].copy()
            np.copyto(padded, noise[name], where=~present)
            assert (padded != clean[name]).any()
            dirty[name] = padded
    torch.testing.assert_close(logits_of(model, clean), logits_of(model, dirty), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in KINDS for name in reads(kind[0], SCHEMA)],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_every_input_is_read(kind: Kind, name: str) -> None:
    model = model_of(kind)
    # More events or partitions in the other inputs, so that a mask differs too.
    inputs, others = inputs_of(3, 3), inputs_of(3, 3, seed=9, events=4, partitions=1)
    changed = {**inputs, name: others[name]}
    assert not torch.equal(logits_of(model, inputs), logits_of(model, changed))


@of_every_kind
@pytest.mark.parametrize(
    ("name", "columns"),
    [("item_vectors", SCHEMA.item_columns), ("history_vectors", SCHEMA.item_columns)],
    ids=["items", "history"],
)
def test_every_item_space_is_read(kind: Kind, name: str, columns: dict[str, slice]) -> None:
    model, inputs = model_of(kind), inputs_of(2, 2)
    assert set(columns) == {"text", "marc"}
    for space in columns.values():
        changed = inputs[name].copy()
        changed[..., space] = 1.0
        assert not torch.equal(logits_of(model, inputs), logits_of(model, {**inputs, name: changed}))


@of_every_kind
def test_several_single_vectors_of_a_user_are_read_each(kind: Kind) -> None:
    specs = [spec.model_dump() for spec in SCHEMA.knowledge]
    specs.append({"name": "mood", "side": "user", "rows": 1, "dim": 2})
    schema = FeatureSchema.model_validate({**SCHEMA.model_dump(), "knowledge": specs})
    model, inputs = model_of(kind, schema), inputs_of(2, 2, schema)
    assert set(schema.user_columns) == {"marc", "mood"}
    for space in schema.user_columns.values():
        changed = inputs["user_vectors"].copy()
        changed[:, space] = 1.0
        assert not torch.equal(logits_of(model, inputs), logits_of(model, {**inputs, "user_vectors": changed}))


@of_every_kind
@of_every_choice
def test_a_model_reads_the_knowledge_of_its_schema_and_no_other(kind: Kind, producers: tuple[str, ...]) -> None:
    schema = SCHEMA.with_knowledge(producers)
    model, full = model_of(kind, schema), inputs_of(3, 3, schema)
    needed = reads(kind[0], schema)
    absent = {name for name in KNOWLEDGE_INPUTS if full[name].size == 0}
    unread = {"user_numeric"} if kind[0] == "lifelong" else {"history_numeric"}
    assert needed == tuple(name for name in INPUTS if name not in absent | unread)
    assert torch.equal(logits_of(model, full), logits_of(model, {name: full[name] for name in needed}))


@of_every_kind
@of_every_choice
def test_gradients_reach_every_parameter(kind: Kind, producers: tuple[str, ...]) -> None:
    schema = SCHEMA.with_knowledge(producers)
    model = model_of(kind, schema)
    model.train()(as_torch(inputs_of(16, 16, schema))).square().sum().backward()
    dead = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.abs().sum() > 0]
    assert dead == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind[0] != "lifelong"], ids="-".join)
def test_hidden_knowledge_in_training_is_as_if_missing(kind: Kind) -> None:
    model = model_of(kind)
    holder = "embedding" if kind[0] == "din" else "fields.embedding"
    model.get_submodule(holder).knowledge_dropout = 1.0  # type: ignore[assignment]  # a plain attribute
    full = inputs_of(4, 4)
    emptied = {name: np.zeros_like(array) if name in KNOWLEDGE_INPUTS else array for name, array in full.items()}
    torch.testing.assert_close(model.train()(as_torch(full)), model.eval()(as_torch(emptied)))


def fused(kind: Kind, tensors: Tensors) -> Tensor:
    """What the model's fusion makes of the partitions."""
    model = model_of(kind)
    fusion = next(module for module in model.modules() if isinstance(module, InterestFusion))
    seen: list[Tensor] = []
    fusion.register_forward_hook(lambda module, inputs, output: seen.append(output))
    logits_of(model, tensors)
    return seen[0]


@pytest.mark.parametrize("kind", [("din", "target"), ("lifelong", "target")], ids="-".join)
def test_target_fusion_is_one_vector_per_candidate(kind: Kind) -> None:
    inputs = inputs_of(1, 6)
    vectors = fused(kind, inputs)
    assert vectors.shape == (6, DIM)
    assert len({tuple(row) for row in vectors.tolist()}) == 6


@pytest.mark.parametrize(
    "kind", [("din", "learned"), ("dcnv2", "target"), ("deepfm", "target"), ("lifelong", "learned")], ids="-".join
)
def test_learned_fusion_is_one_vector_per_user_whatever_the_candidate(kind: Kind) -> None:
    inputs, other = inputs_of(1, 6), inputs_of(1, 4, seed=5)
    others = {name: other[name] if name in ITEM_INPUTS else inputs[name] for name in INPUTS}
    vector = fused(kind, inputs)
    assert vector.shape == (1, DIM)
    assert torch.equal(vector, fused(kind, others))
    users = fused(kind, inputs_of(3, 3))
    assert users.shape == (3, DIM)
    assert len({tuple(row) for row in users.tolist()}) == 3


def test_heads_that_do_not_share_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="4 heads do not share 6 dimensions"):
        build_model("din", SCHEMA, ITEM_ROWS, ModelSettings(dim=3, dropout=0.0, knowledge_dropout=0.0))
