"""The model of whole histories: packed is as served, nothing looks ahead, and the exported graph takes any length."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models.contract.artifact import ArtifactManifest, ModelName
from models.contract.encoding import USER_INPUTS, Tensors
from models.contract.knowledge import Space
from models.contract.schema import FeatureSchema, RunningSpec
from models.ctr.build import reads
from models.ctr.export import export_onnx, parity
from models.ctr.lifelong import Lifelong
from tests.models.tiny import ITEM_ROWS, Kind, as_torch, histories_of, inputs_of, logits_of, model_of, served
from tests.synthetic import SCHEMA

SERVED: Kind = ("lifelong", "target")
LONG = SCHEMA.model_copy(update={"history_length": 40})
RUNNING = LONG.model_copy(update={"running": RunningSpec(half_lives_days=(1.0, 14.0))})
UNTIMED = LONG.model_copy(update={"running": RunningSpec()})
FIELDLESS = FeatureSchema.model_validate({**LONG.model_dump(), "item_fields": (), "user_fields": ()})
LENGTHS = (40, 1, 17, 2)
OF_AN_EVENT = ("item_index", "item_categorical", "item_vectors", "history_numeric", "value")
"""What later events see of an event."""
OF_A_CANDIDATE = ("item_numeric", "user_vectors", "partition_counts")
"""What an event alone reads."""

_BOTH: tuple[Kind, ...] = (SERVED, ("lifelong", "inattentive"))
_PACKED: tuple[Kind, ...] = (*_BOTH, ("lifelong", "learned"), ("lifelong", "experts"))
of_both_kinds = pytest.mark.parametrize("kind", _BOTH, ids="-".join)
of_every_schema = pytest.mark.parametrize(
    "schema",
    [
        LONG,
        LONG.with_knowledge(()),
        LONG.with_knowledge(("text",)),
        FIELDLESS,
        FIELDLESS.with_knowledge(()),
        RUNNING,
        UNTIMED,
    ],
    ids=["all", "no knowledge", "of items alone", "no fields", "nothing", "running", "running without times"],
)


def lifelong(kind: Kind = SERVED, schema: FeatureSchema = LONG, *, dropout: float = 0.0) -> Lifelong:
    model = model_of(kind, schema, dropout=dropout)
    assert isinstance(model, Lifelong)
    model.belief_mean.copy_(torch.tensor([0.1, 1.5]))
    model.belief_scale.copy_(torch.tensor([0.5, 0.7]))
    return model


def logits_at_all(model: Lifelong, histories: Tensors) -> Tensor:
    """Logits [B, L] of all events of whole histories, beliefs included; zeros at padding."""
    tensors = as_torch(histories)
    sample = tensors["present"] > 0
    with torch.inference_mode():
        assert model.process is not None
        beliefs = torch.stack(model.process.sequence(tensors), dim=2)[sample]
        logits, hidden = model.eval().sequence(tensors, sample, beliefs)
        assert hidden.shape == (len(logits), model.hidden)
        return torch.zeros(sample.shape).masked_scatter(sample, logits)


def as_noise(histories: Tensors, names: tuple[str, ...], where: slice) -> Tensors:
    """The histories with other events at these places."""
    other = histories_of(LENGTHS, LONG, seed=77)
    other["value"] = histories["value"] + 0.25  # so that it differs everywhere
    other["item_index"] = (histories["item_index"] + 7) % ITEM_ROWS
    other["partition_counts"] = (histories["partition_counts"] + 2) % 6
    changed = dict(histories)
    for name in names:
        changed[name] = histories[name].copy()
        changed[name][:, where] = other[name][:, where]
    return changed


@pytest.mark.parametrize("kind", _PACKED, ids="-".join)
@of_every_schema
def test_packed_is_as_served(kind: Kind, schema: FeatureSchema) -> None:
    model, histories = lifelong(kind, schema), histories_of(LENGTHS, schema)
    packed = logits_at_all(model, histories)
    user, at = np.nonzero(histories["present"])
    inputs = served(histories, user, at)
    assert set(reads("lifelong", schema)) <= set(inputs)
    pairs = logits_of(model, inputs)
    torch.testing.assert_close(pairs, packed[user, at], rtol=1e-4, atol=1e-4)
    assert pairs.std() > 0.1
    for event in (0, 1, 20, 40):  # cut to the length that it has, for one user and all the others' items
        length = max(1, int(at[event]))
        alone = {name: array[event : event + 1] if name in USER_INPUTS else array for name, array in inputs.items()}
        alone |= {name: array[:, :length] for name, array in alone.items() if name.startswith("history_")}
        many = logits_of(model, alone)
        assert many.shape == (len(at),)
        torch.testing.assert_close(many[event], packed[user[event], at[event]], rtol=1e-4, atol=1e-4)


@of_both_kinds
@pytest.mark.parametrize("at", [0, 1, 9, 38])
def test_nothing_looks_ahead(kind: Kind, at: int) -> None:
    model, histories = lifelong(kind), histories_of(LENGTHS)
    before = logits_at_all(model, histories)
    later = as_noise(histories, (*OF_AN_EVENT, *OF_A_CANDIDATE), slice(at + 1, None))
    own = as_noise(later, ("value", "history_numeric"), slice(at, at + 1))
    after = logits_at_all(model, own)
    torch.testing.assert_close(after[:, : at + 1], before[:, : at + 1], rtol=0, atol=2e-5)
    assert (after[0, at + 1 :] - before[0, at + 1 :]).abs().min() > 1e-4


@of_both_kinds
@pytest.mark.parametrize("name", OF_AN_EVENT)
def test_all_later_events_see_an_event(kind: Kind, name: str) -> None:
    model, histories = lifelong(kind), histories_of(LENGTHS)
    changed = as_noise(histories, (name,), slice(5, 6))
    moved = (logits_at_all(model, changed) - logits_at_all(model, histories)).abs()
    assert moved[0, 6:].min() > 1e-5
    assert moved[0, :5].max() < 2e-5
    assert moved[[1, 3]].max() == 0  # histories of one and two events: that was padding


@of_both_kinds
@pytest.mark.parametrize("name", OF_A_CANDIDATE)
def test_statistics_and_knowledge_of_the_moment_are_read_at_that_moment_alone(kind: Kind, name: str) -> None:
    model, histories = lifelong(kind), histories_of(LENGTHS)
    changed = as_noise(histories, (name,), slice(5, 6))
    moved = (logits_at_all(model, changed) - logits_at_all(model, histories)).abs()
    assert moved[0, 5] > 1e-3
    moved[:, 5] = 0
    assert moved.max() < 2e-5


@of_both_kinds
def test_a_history_is_the_same_alone_and_in_a_batch(kind: Kind) -> None:
    model, histories = lifelong(kind), histories_of(LENGTHS)
    together = logits_at_all(model, histories)
    for at, length in enumerate(LENGTHS):
        alone = {name: array[at : at + 1] for name, array in histories.items()}
        whole = ("user_categorical", "partition_vectors")
        alone = {name: array if name in whole else array[:, :length] for name, array in alone.items()}
        torch.testing.assert_close(logits_at_all(model, alone)[0], together[at, :length], rtol=1e-4, atol=2e-5)


@of_both_kinds
def test_only_the_chosen_events_are_answered(kind: Kind) -> None:
    model, histories = lifelong(kind), histories_of(LENGTHS)
    tensors, every = as_torch(histories), logits_at_all(model, histories)
    sample = (tensors["present"] > 0) & (torch.arange(40) % 3 == 1)
    with torch.inference_mode():
        assert model.process is not None
        beliefs = torch.stack(model.process.sequence(tensors), dim=2)
        logits, _ = model.sequence(tensors, sample, beliefs[sample])
        torch.testing.assert_close(logits, every[sample], rtol=1e-5, atol=1e-5)
        others, _ = model.sequence(tensors, sample, beliefs[sample] + 1.0)
    assert (others - logits).abs().min() > 1e-4


@of_both_kinds
@of_every_schema
def test_gradients_reach_every_parameter_but_the_process(kind: Kind, schema: FeatureSchema) -> None:
    model, tensors = lifelong(kind, schema), as_torch(histories_of((40,) * 4, schema))
    sample = tensors["present"] > 0
    logits, hidden = model.train().sequence(tensors, sample, torch.randn(160, 2))
    (logits.square().sum() + hidden.sum()).backward()  # type: ignore[no-untyped-call]
    for name, weight in model.named_parameters():
        if name.startswith("process."):
            assert weight.grad is None, name
        else:
            assert weight.grad is not None, name
            assert torch.isfinite(weight.grad).all(), name
            assert weight.grad.any(), name


def test_hidden_knowledge_in_training_is_as_if_missing() -> None:
    model, histories = lifelong(), histories_of((12,) * 64)
    model.id_dropout.dropped = 0
    knowledge = ("item_vectors", "user_vectors", "partition_counts")
    emptied = {name: np.zeros_like(array) if name in knowledge else array for name, array in histories.items()}
    sample, beliefs = torch.ones(64, 12, dtype=torch.bool), torch.randn(64 * 12, 2)

    def logits(tensors: Tensors) -> Tensor:
        values: Tensor = model.sequence(as_torch(tensors), sample, beliefs)[0].detach().view(64, 12)
        return values

    model.eval()
    seen, unseen = logits(histories), logits(emptied)
    model.knowledge_dropout = 0.5
    assert torch.equal(logits(histories), seen)  # in evaluation nothing is hidden
    model.train()
    hidden_at_random = logits(histories)
    hidden = (hidden_at_random - unseen).abs().amax(dim=1) < 1e-5
    assert 15 < int(hidden.sum()) < 49  # a history's knowledge is hidden as a whole, or not at all
    torch.testing.assert_close(hidden_at_random[~hidden], seen[~hidden], rtol=1e-5, atol=1e-5)


def test_beliefs_are_read_on_the_scale_of_training() -> None:
    model = lifelong()
    beliefs = torch.randn(500, 2) * torch.tensor([0.3, 0.05]) + torch.tensor([0.2, 0.9])
    model.standardise(beliefs)
    scaled = (beliefs - model.belief_mean) / model.belief_scale
    torch.testing.assert_close(scaled.mean(dim=0), torch.zeros(2), rtol=0, atol=1e-4)
    torch.testing.assert_close(scaled.std(dim=0), torch.ones(2))
    model.standardise(torch.ones(5, 2))  # all alike: no division by zero
    assert torch.isfinite(logits_of(model, inputs_of(1, 3, LONG))).all()
    assert {"belief_mean", "belief_scale"} <= set(model.state_dict())


@of_both_kinds
def test_without_attention_no_event_is_looked_up(kind: Kind) -> None:
    names = [
        name for name, _ in lifelong(kind).named_parameters() if name.split(".")[0] in ("query", "key", "distance")
    ]
    assert len(names) == (0 if kind[1] == "inattentive" else 4)


def test_the_exported_graph_takes_histories_of_hundreds_of_events() -> None:
    schema = SCHEMA.with_knowledge(("marc",)).model_copy(update={"history_length": 520})
    model = lifelong(schema=schema, dropout=0.5)
    manifest = ArtifactManifest(
        model=ModelName(name="tiny", version="1"),
        architecture="lifelong",
        feature_schema=schema,
        spaces=tuple(Space(**spec.model_dump(), components={"made": "by hand"}) for spec in schema.knowledge),
        inputs=reads("lifelong", schema),
        item_rows=ITEM_ROWS,
        trained_until_ms=5,
    )
    artifact = export_onnx(model, manifest, inputs_of(1, 3, schema, events=4, length=5))
    requests = [
        inputs_of(1, candidates, schema, seed=length, events=events, length=length)
        for events, length in ((0, 1), (0, 9), (1, 1), (2, 2), (100, 100), (300, 300), (300, 520), (520, 520))
        for candidates in (1, 2, 500)
    ]
    assert parity(model, artifact, manifest, requests) < 1e-5
