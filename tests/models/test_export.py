"""torch -> ONNX: parity, the manifest inside, and what the file must not say."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from models.contract.artifact import ArtifactManifest, ModelName
from models.contract.encoding import HISTORY_INPUTS, ITEM_INPUTS, USER_INPUTS
from models.contract.knowledge import Space
from models.contract.schema import FeatureSchema
from models.ctr import layers
from models.ctr.build import reads
from models.ctr.export import export_onnx, parity
from models.onnx_runtime import onnx_runtime
from tests.models.tiny import ALL, ITEM_ROWS, KINDS, Kind, inputs_of, logits_of, model_of
from tests.synthetic import SCHEMA

BARE = SCHEMA.with_knowledge(())
Exported = tuple[nn.Module, ArtifactManifest, bytes]


def manifest_of(kind: Kind, schema: FeatureSchema) -> ArtifactManifest:
    return ArtifactManifest(
        model=ModelName(name=f"tiny-{kind[0]}", version="é1"),
        architecture=kind[0],
        feature_schema=schema,
        spaces=tuple(Space(**spec.model_dump(), components={"made": "by hand"}) for spec in schema.knowledge),
        inputs=reads(kind[0], schema),
        item_rows=ITEM_ROWS,
        trained_until_ms=5,
        metrics={"validation_auc": 0.5},
    )


@cache
def export_of(kind: Kind, producers: tuple[str, ...]) -> Exported:
    schema = SCHEMA.with_knowledge(producers)
    model, manifest = model_of(kind, schema, dropout=0.5), manifest_of(kind, schema)
    return model, manifest, export_onnx(model, manifest, inputs_of(1, 3, schema))


CASES: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    *((kind, ALL) for kind in (*KINDS[:3], KINDS[4])),
    *((kind, ("marc",)) for kind in (KINDS[3], KINDS[5])),
    *((kind, ALL) for kind in KINDS[6:]),
    (KINDS[0], ()),
)
"""Every kind of model and what it reads; some read single vectors only, and one no knowledge."""


@pytest.fixture(params=CASES, ids=lambda case: "-".join((*case[0], *case[1])))
def exported(request: pytest.FixtureRequest) -> Exported:
    return export_of(*request.param)


@pytest.mark.parametrize("candidates", [1, 2, 500])
@pytest.mark.parametrize(("events", "partitions"), [(5, 2), (0, 0)])
def test_the_exported_graph_answers_as_torch_does(
    exported: Exported, candidates: int, events: int, partitions: int
) -> None:
    model, manifest, artifact = exported
    request = inputs_of(1, candidates, manifest.feature_schema, seed=candidates, events=events, partitions=partitions)
    assert parity(model, artifact, manifest, [request]) < 1e-5
    session = onnx_runtime().InferenceSession(artifact, providers=["CPUExecutionProvider"])
    scores = session.run(["score"], {name: request[name] for name in manifest.inputs})[0]
    assert scores.shape == (candidates,)
    np.testing.assert_allclose(scores, torch.sigmoid(logits_of(model, request)).numpy(), atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 7])
def test_a_history_may_have_any_length(exported: Exported, length: int) -> None:
    model, manifest, artifact = exported
    for events in {0, length}:
        request = inputs_of(1, 3, manifest.feature_schema, events=events, length=length)
        assert parity(model, artifact, manifest, [request]) < 1e-5


def test_the_example_does_not_settle_the_length() -> None:
    """A short one, that is; the other exports here have an example as long as the schema allows."""
    model, manifest = model_of(KINDS[5], BARE), manifest_of(KINDS[5], BARE)
    artifact = export_onnx(model, manifest, inputs_of(1, 2, BARE, events=1, length=2))
    requests = [inputs_of(1, 3, BARE, events=events, length=max(1, events)) for events in (0, 1, 2, 7, 8)]
    assert parity(model, artifact, manifest, requests) < 1e-5


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[5]], ids="-".join)
def test_a_schema_may_have_room_for_one_event_alone(kind: Kind) -> None:
    schema = BARE.model_copy(update={"history_length": 1})
    model, manifest = model_of(kind, schema), manifest_of(kind, schema)
    artifact = export_onnx(model, manifest, inputs_of(1, 2, schema, events=1))
    assert parity(model, artifact, manifest, [inputs_of(1, 3, schema, events=events) for events in (0, 1)]) < 1e-5


def test_parity_notices_another_model(exported: Exported) -> None:
    model, manifest, artifact = exported
    other = copy.deepcopy(model)
    torch.manual_seed(2)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    assert parity(other, artifact, manifest, [inputs_of(1, 20, manifest.feature_schema)]) > 1e-3


def test_the_manifest_reads_back_from_the_file(exported: Exported) -> None:
    _, manifest, artifact = exported
    session = onnx_runtime().InferenceSession(artifact, providers=["CPUExecutionProvider"])
    assert ArtifactManifest.from_metadata(session.get_modelmeta().custom_metadata_map) == manifest
    assert tuple(node.name for node in session.get_inputs()) == manifest.inputs
    shapes = {node.name: node.shape[0] for node in session.get_inputs()}
    assert {shapes[name] for name in manifest.inputs if name in USER_INPUTS} == {1}
    assert {shapes[name] for name in manifest.inputs if name in ITEM_INPUTS} == {"candidates"}
    assert {node.shape[1] for node in session.get_inputs() if node.name in HISTORY_INPUTS} == {"events"}


def test_the_file_is_self_contained(exported: Exported) -> None:
    proto = onnx.load_model_from_string(exported[2])
    assert not any(weight.external_data for weight in proto.graph.initializer)
    assert [entry.key for entry in proto.metadata_props] == ["lorank.manifest"]


def test_the_file_does_not_say_where_it_was_made(exported: Exported) -> None:
    assert str(Path(layers.__file__).parents[2]).encode() not in exported[2]
    assert b".py" not in exported[2], "an artifact must not say where it was made"


def test_an_export_is_repeatable() -> None:
    model, manifest, first = export_of(KINDS[0], ALL)
    assert export_onnx(model, manifest, inputs_of(1, 3)) == first
