"""The CTR models: broadcasting, empty sequences, knowledge switched off, gradients, export and parity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from models.contract.artifact import ArtifactManifest, ModelName
from models.contract.encoding import INPUTS, ITEM_INPUTS, USER_INPUTS, Tensors
from models.ctr import layers
from models.ctr.build import Architecture, build_model, model_inputs
from models.ctr.export import export_onnx, parity
from models.ctr.features import KNOWLEDGE_INPUTS
from tests.synthetic import SCHEMA

ARCHITECTURES: tuple[Architecture, ...] = ("din", "dcnv2", "deepfm")
ITEM_ROWS = 30


def model_of(architecture: Architecture, *, knowledge: bool = True, dropout: float = 0.0) -> nn.Module:
    """An untrained model whose weights are larger than at birth, so that every input shows in its answers."""
    torch.manual_seed(1)
    model = build_model(
        architecture, SCHEMA, ITEM_ROWS, dim=8, dropout=dropout, knowledge=knowledge, knowledge_dropout=dropout
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    return model


def inputs_of(users: int, candidates: int, *, seed: int = 0, events: int = 5, partitions: int = 2) -> Tensors:
    """Random but possible inputs: so many users with so many events and partitions, and so many candidates."""
    generator = np.random.default_rng(seed)
    T, J, D = SCHEMA.history_length, SCHEMA.partitions, SCHEMA.knowledge_dim
    present = np.repeat(np.arange(T)[None] < events, users, axis=0)
    closed = np.repeat(np.arange(J)[None] < partitions, users, axis=0)

    def fields(cardinalities: list[int], *shape: int) -> np.ndarray:
        return np.stack([generator.integers(0, one, shape) for one in cardinalities], axis=-1)

    def normal(*shape: int) -> np.ndarray:
        return generator.normal(size=shape).astype(np.float32)

    user_slots = [one.cardinality for one in SCHEMA.user_fields for _ in range(one.slots)]
    item_slots = [one.cardinality for one in SCHEMA.item_fields for _ in range(one.slots)]
    return {
        "user_categorical": fields(user_slots, users),
        "user_numeric": normal(users, 4),
        "history_index": generator.integers(0, ITEM_ROWS, (users, T)) * present,
        "history_categorical": fields(item_slots, users, T) * present[..., None],
        "history_value": normal(users, T) * present,
        "history_mask": present.astype(np.float32),
        "history_vectors": normal(users, T, D) * present[..., None],
        "partition_vectors": normal(users, J, D) * closed[..., None],
        "partition_mask": closed.astype(np.float32),
        "item_index": generator.integers(0, ITEM_ROWS, candidates),
        "item_categorical": fields(item_slots, candidates),
        "item_numeric": normal(candidates, 3),
        "item_vectors": normal(candidates, D),
    }


def as_torch(tensors: Tensors) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in tensors.items()}


def logits_of(model: nn.Module, tensors: Tensors) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model.eval()(as_torch(tensors))
    return logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("knowledge", [True, False])
@pytest.mark.parametrize(("events", "partitions"), [(5, 2), (0, 2), (5, 0), (0, 0), (8, 3)])
def test_one_user_for_all_equals_aligned_pairs(
    architecture: Architecture, knowledge: bool, events: int, partitions: int
) -> None:
    model = model_of(architecture, knowledge=knowledge)
    one = inputs_of(1, 6, events=events, partitions=partitions)
    aligned = {**one, **{name: one[name].repeat(6, axis=0) for name in USER_INPUTS}}
    logits = logits_of(model, one)
    assert logits.shape == (6,)
    assert torch.isfinite(logits).all()
    assert len(set(logits.tolist())) == 6
    torch.testing.assert_close(logits, logits_of(model, aligned), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_says_nothing(architecture: Architecture) -> None:
    model = model_of(architecture)
    clean = inputs_of(1, 4)
    noise = inputs_of(1, 4, seed=9, events=8, partitions=3)
    dirty = dict(clean)
    for mask, names in (
        ("history_mask", ("history_index", "history_categorical", "history_value", "history_vectors")),
        ("partition_mask", ("partition_vectors",)),
    ):
        for name in names:
            present = clean[mask].reshape(*clean[mask].shape, *[1] * (clean[name].ndim - 2)) > 0
            padded = clean[name].copy()
            np.copyto(padded, noise[name], where=~present)
            assert (padded != clean[name]).any()
            dirty[name] = padded
    torch.testing.assert_close(logits_of(model, clean), logits_of(model, dirty), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", INPUTS)
def test_every_input_is_read(architecture: Architecture, name: str) -> None:
    model = model_of(architecture)
    # More events or partitions in the other inputs, so that a mask differs too.
    one, other = inputs_of(3, 3), inputs_of(3, 3, seed=9, events=4, partitions=1)
    changed = {**one, name: other[name]}
    assert not torch.equal(logits_of(model, one), logits_of(model, changed))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_without_knowledge_does_not_read_it(architecture: Architecture) -> None:
    model = model_of(architecture, knowledge=False)
    full = inputs_of(3, 3)
    needed = model_inputs(knowledge=False)
    assert set(INPUTS) - set(needed) == set(KNOWLEDGE_INPUTS)
    assert model_inputs(knowledge=True) == INPUTS
    assert torch.equal(logits_of(model, full), logits_of(model, {name: full[name] for name in needed}))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("knowledge", [True, False])
def test_gradients_reach_every_parameter(architecture: Architecture, knowledge: bool) -> None:
    model = model_of(architecture, knowledge=knowledge)
    model.train()(as_torch(inputs_of(16, 16))).square().sum().backward()
    dead = [name for name, one in model.named_parameters() if one.grad is None or not one.grad.abs().sum() > 0]
    assert dead == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_hidden_knowledge_in_training_is_as_if_missing(architecture: Architecture) -> None:
    model = model_of(architecture)
    model.get_submodule("embedding").knowledge_dropout = 1.0  # type: ignore[assignment]  # a plain attribute
    full = inputs_of(4, 4)
    emptied = {name: np.zeros_like(array) if name in KNOWLEDGE_INPUTS else array for name, array in full.items()}
    torch.testing.assert_close(model.train()(as_torch(full)), model.eval()(as_torch(emptied)))


@pytest.fixture(scope="module", params=[(one, True) for one in ARCHITECTURES] + [("din", False)], ids=str)
def exported(request: pytest.FixtureRequest) -> tuple[nn.Module, ArtifactManifest, bytes]:
    architecture, knowledge = request.param
    model = model_of(architecture, knowledge=knowledge, dropout=0.5)
    manifest = ArtifactManifest(
        model=ModelName(name=f"tiny-{architecture}", version="é1"),
        architecture=architecture,
        feature_schema=SCHEMA,
        inputs=model_inputs(knowledge),
        item_rows=ITEM_ROWS,
        trained_until_ms=5,
        metrics={"validation_auc": 0.5},
    )
    return model, manifest, export_onnx(model, manifest, inputs_of(1, 3))


@pytest.mark.parametrize("candidates", [1, 2, 500])
@pytest.mark.parametrize(("events", "partitions"), [(5, 2), (0, 0)])
def test_the_exported_graph_answers_as_torch_does(
    exported: tuple[nn.Module, ArtifactManifest, bytes], candidates: int, events: int, partitions: int
) -> None:
    model, manifest, artifact = exported
    request = inputs_of(1, candidates, seed=candidates, events=events, partitions=partitions)
    assert parity(model, artifact, manifest, [request]) < 1e-5
    session = ort.InferenceSession(artifact, providers=["CPUExecutionProvider"])
    scores = session.run(["score"], {name: request[name] for name in manifest.inputs})[0]
    assert scores.shape == (candidates,)
    np.testing.assert_allclose(scores, torch.sigmoid(logits_of(model, request)).numpy(), atol=1e-5)


def test_parity_notices_another_model(exported: tuple[nn.Module, ArtifactManifest, bytes]) -> None:
    _, manifest, artifact = exported
    torch.manual_seed(2)
    other = model_of(manifest.architecture, knowledge="item_vectors" in manifest.inputs)  # type: ignore[arg-type]
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    assert parity(other, artifact, manifest, [inputs_of(1, 20)]) > 1e-3


def test_the_manifest_reads_back_from_the_file(exported: tuple[nn.Module, ArtifactManifest, bytes]) -> None:
    _, manifest, artifact = exported
    session = ort.InferenceSession(artifact, providers=["CPUExecutionProvider"])
    assert ArtifactManifest.from_metadata(session.get_modelmeta().custom_metadata_map) == manifest
    assert tuple(one.name for one in session.get_inputs()) == manifest.inputs
    shapes = {one.name: one.shape[0] for one in session.get_inputs()}
    assert {shapes[name] for name in manifest.inputs if name in USER_INPUTS} == {1}
    assert {shapes[name] for name in manifest.inputs if name in ITEM_INPUTS} == {"candidates"}


def test_the_file_is_self_contained(exported: tuple[nn.Module, ArtifactManifest, bytes]) -> None:
    proto = onnx.load_model_from_string(exported[2])
    assert not any(one.external_data for one in proto.graph.initializer)
    assert [one.key for one in proto.metadata_props] == ["lorank.manifest"]


def test_an_export_is_repeatable() -> None:
    model = model_of("din")
    manifest = ArtifactManifest(
        model=ModelName(name="tiny", version="1"), architecture="din", feature_schema=SCHEMA, inputs=INPUTS,
        item_rows=ITEM_ROWS, trained_until_ms=5,
    )  # fmt: skip
    first, second = (export_onnx(model, manifest, inputs_of(1, 3)) for _ in range(2))
    assert first == second
    assert str(Path(layers.__file__).parents[2]).encode() not in first
    assert b".py" not in first, "an artifact must not say where it was made"
