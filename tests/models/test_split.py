"""Models in parts: the scores of the whole, whatever the model; and what cannot be cut or does not score the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from models.contract.artifact import METADATA_KEY, ArtifactManifest
from models.contract.encoding import Tensors
from models.contract.items import Columns
from models.ctr import split as splitting
from models.ctr.cut import UncutError
from models.ctr.split import rehearsal, rehearse, split
from models.split_model import (
    HISTORY_GRAPH,
    HISTORY_ROWS,
    ITEM_GRAPH,
    ITEM_ROWS,
    REQUEST_GRAPH,
    WEIGHTS,
    ColumnGraph,
    SplitModel,
)
from tests.models.test_export import CASES, export_of
from tests.models.tiny import ALL, Kind
from tests.parts import split_model, write_parts
from tests.service.tiny_model import artifact_manifest, model_bytes

SMALL = "tests/models/test_split.py::test_every_kind_of_model_scores_the_same_in_parts"
WITHOUT_KNOWLEDGE = (
    (("dcnv2", "target"), ()),
    pytest.param(("lifelong", "target"), (), marks=pytest.mark.slow(small=SMALL)),
)


@pytest.mark.parametrize(
    ("kind", "producers"), [*CASES, *WITHOUT_KNOWLEDGE], ids=lambda names: "-".join(names) or "nothing"
)
@pytest.mark.parametrize("large", [65_536, 128])
def test_every_kind_of_model_scores_the_same_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, producers: tuple[str, ...], large: int
) -> None:
    monkeypatch.setattr(splitting, "_LARGE_BYTES", large)
    monkeypatch.setattr(splitting, "TOLERANCE", 1e-4)
    _, manifest, content = export_of(kind, producers)
    model = split_model(content, tmp_path)
    assert model.artifact == manifest
    assert model.inputs <= set(manifest.inputs)
    rehearse(content, tmp_path)


def nodes_of(graph: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_model_from_string(graph).graph.node]


def inputs_of(graph: bytes) -> set[str]:
    return {info.name for info in onnx.load_model_from_string(graph).graph.input}


def test_what_the_items_need_is_not_in_the_graph_that_requests_run() -> None:
    _, manifest, content = export_of(("lifelong", "target"), ALL)
    parts = split(content)
    assert len(nodes_of(parts[REQUEST_GRAPH])) < 0.8 * len(nodes_of(content))
    inputs = inputs_of(parts[REQUEST_GRAPH])
    assert not {"item_index", "item_vectors", "history_index", "history_vectors"}.intersection(inputs)
    columns = {info.name for info in onnx.load_model_from_string(parts[ITEM_GRAPH]).graph.output}
    assert {ITEM_ROWS, HISTORY_ROWS, "history_value"} | columns <= inputs
    assert inputs_of(parts[HISTORY_GRAPH]) <= set(manifest.inputs)


def test_requests_take_columns_of_the_table_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Described candidates and slates without knowledge differ from the table, and are computed; all others are not."""
    _, manifest, content = export_of(("lifelong", "target"), ALL)
    model = split_model(content, tmp_path)
    table, samples = rehearsal(manifest.feature_schema, manifest.item_rows)
    columns = model.table_columns(table)
    computed: list[int] = []
    compute = ColumnGraph.columns

    def noted(self: ColumnGraph, tensors: Tensors) -> Columns:
        computed.append(len(tensors[self.inputs[0]]))
        return compute(self, tensors)

    monkeypatch.setattr(ColumnGraph, "columns", noted)
    for sample in samples:
        model.scores(sample, table, columns)
        if not sample.knowledge:  # every candidate, and one history
            assert computed == [len(sample.rows), 1]
        else:
            assert computed == ([] if sample.described is None else [2])
        computed.clear()
    cases = {(sample.knowledge, sample.described is None) for sample in samples}
    assert len(cases) == 4


@pytest.mark.parametrize("chunk", [2048, 10])
def test_columns_of_a_table_are_those_of_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr("models.split_model.CHUNK", chunk)
    _, manifest, content = export_of(("lifelong", "target"), ALL)
    model = split_model(content, tmp_path)
    table, _ = rehearsal(manifest.feature_schema, manifest.item_rows)
    columns = model.table_columns(table)
    assert len(table) > 10
    rows = np.asarray([5, 0, 64, 5])
    of_rows = model.columns(table, rows)
    assert of_rows.keys() == columns.keys()
    for name, cells in of_rows.items():
        assert columns[name].shape == (len(table), *cells.shape[1:])
        np.testing.assert_allclose(cells, columns[name][rows], atol=1e-6)


def test_large_weights_lie_outside_once_and_are_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitting, "_LARGE_BYTES", 128)
    _, _, content = export_of(("lifelong", "target"), ALL)
    assert set(write_parts(content, tmp_path)) == {ITEM_GRAPH, HISTORY_GRAPH, REQUEST_GRAPH, WEIGHTS}
    graphs = [onnx.load_model(tmp_path / name, load_external_data=False).graph for name in (ITEM_GRAPH, HISTORY_GRAPH)]
    outside = [{weight.name: weight for weight in graph.initializer if weight.external_data} for graph in graphs]
    assert outside[0].keys() & outside[1].keys(), "a weight that both read"
    weights = outside[0] | outside[1]
    offsets = [int(cell.value) for weight in weights.values() for cell in weight.external_data if cell.key == "offset"]
    assert len(set(offsets)) == len(weights)
    assert all(offset % 4096 == 0 for offset in offsets)
    model = SplitModel.open(tmp_path, 1)
    assert str(tmp_path / WEIGHTS) in Path("/proc/self/maps").read_text()
    del model


def test_the_same_model_has_the_same_parts() -> None:
    _, _, content = export_of(("din", "target"), ALL)
    assert split(content) == split(content)


def _with_manifest(graph: onnx.GraphProto, manifest: ArtifactManifest) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: manifest.model_dump_json()})
    return bytes(model.SerializeToString())


def _softmax_over_candidates(scale: float) -> bytes:
    """Scores that are the candidates' shares of their sum: no row can be computed without the others."""
    shares = [
        helper.make_node("Constant", [], ["scale"], value_float=scale),
        helper.make_node("Softmax", ["item_numeric"], ["shares"], axis=0),
        helper.make_node("Constant", [], ["axis"], value_ints=[1]),
        helper.make_node("ReduceSum", ["shares", "axis"], ["sum"], keepdims=0),
        helper.make_node("ReduceMax", ["history_value"], ["most"], keepdims=0),
        helper.make_node("Mul", ["sum", "most"], ["product"]),
        helper.make_node("Mul", ["product", "scale"], ["score"]),
    ]
    takes = [
        helper.make_tensor_value_info("item_numeric", TensorProto.FLOAT, ["C", 3]),
        helper.make_tensor_value_info("history_value", TensorProto.FLOAT, [1, "T"]),
    ]
    gives = [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["C"])]
    graph = helper.make_graph(shares, "shares", takes, gives)
    return _with_manifest(graph, artifact_manifest(inputs=("item_numeric", "history_value")))


@pytest.mark.parametrize(
    ("scale", "reason"),
    [(1.0, "scores of its parts differ"), (1e-4, "scores of its parts differ"), (1e-9, "do not tell made-up")],
)
def test_a_model_whose_rows_depend_on_each_other_is_refused(tmp_path: Path, scale: float, reason: str) -> None:
    """Its shapes do not tell; and where the scores do not either, nobody can know whether the parts are right."""
    content = _softmax_over_candidates(scale)
    write_parts(content, tmp_path)
    with pytest.raises(UncutError, match=reason):
        rehearse(content, tmp_path)


def test_a_model_without_a_part_of_items_alone_is_not_cut() -> None:
    takes = [
        helper.make_tensor_value_info("user_vectors", TensorProto.FLOAT, [1, 2]),
        helper.make_tensor_value_info("score", TensorProto.FLOAT, [1]),
    ]
    node = helper.make_node("ReduceSum", ["user_vectors"], ["score"], keepdims=0)
    content = _with_manifest(helper.make_graph([node], "user", takes[:1], takes[1:]), artifact_manifest())
    with pytest.raises(UncutError, match="nothing in the graph"):
        split(content)


def test_a_model_with_branches_is_not_cut() -> None:
    model = onnx.load_model_from_string(model_bytes())
    inner = helper.make_graph([], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["never"], ["either"], then_branch=inner, else_branch=inner))
    with pytest.raises(UncutError, match="branches"):
        split(model.SerializeToString())


def test_counting_candidates_needs_no_column_of_them() -> None:
    """A shape of the items' inputs becomes one of the rows."""
    _, _, content = export_of(("dcnv2", "target"), ())
    assert "item_index/column" not in inputs_of(split(content)[REQUEST_GRAPH])
