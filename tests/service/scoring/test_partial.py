"""Models in parts: the same scores as whole, whatever the model; and what cannot be cut runs as a whole."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from models.contract.encoding import Tensors
from models.contract.items import Columns, in_memory
from service.scoring import onnx as scoring
from service.scoring.onnx import in_parts, opened
from service.scoring.partial import HISTORY_ROWS, ITEM_ROWS, UncutError, cut
from service.scoring.rehearsal import rehearsal
from service.scoring.scorers import PartialScorer, SideSession, WholeScorer
from service.scoring.session import session
from tests.models.test_export import export_of
from tests.models.tiny import ALL, KINDS, Kind
from tests.service.tiny_model import artifact_manifest, model_bytes


def nodes_of(graph: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_model_from_string(graph).graph.node]


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
@pytest.mark.parametrize("producers", [ALL, ()], ids=["knowledge", "none"])
def test_every_kind_of_model_scores_the_samein_parts(kind: Kind, producers: tuple[str, ...]) -> None:
    _, manifest, content = export_of(kind, producers)
    whole = session(content, 1)
    cut_up = in_parts(content, whole, manifest, 1)
    assert cut_up is not None
    parts = cut_up[1]
    table, samples = rehearsal(manifest)
    one, other = (
        WholeScorer(whole, manifest, table),
        PartialScorer(parts, manifest, table, parts.columns(table, in_memory)),
    )
    for sample in samples:
        expected = one.run(sample)
        assert len(expected) == 1 or expected.std() > 1e-6
        np.testing.assert_allclose(other.run(sample), expected, atol=2e-6)


def test_what_the_items_need_is_not_in_the_graph_that_requests_run() -> None:
    _, manifest, content = export_of(("lifelong", "target"), ALL)
    parts = cut(content)
    whole, rest = nodes_of(content), nodes_of(parts.rest)
    assert len(rest) < 0.8 * len(whole)
    taken = [one.name for one in onnx.load_model_from_string(parts.rest).graph.input]
    assert not {"item_index", "item_vectors", "history_index", "history_vectors"}.intersection(taken)
    columns = [one.name for one in onnx.load_model_from_string(parts.items).graph.output]
    assert {ITEM_ROWS, HISTORY_ROWS, "history_value", *columns}.issubset(taken)
    assert parts.history is not None
    assert {one.name for one in onnx.load_model_from_string(parts.history).graph.input} <= set(manifest.inputs)


def test_requests_take_columns_of_the_table_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Described candidates and slates without knowledge differ from the table, and are computed; all others are not."""
    _, manifest, content = export_of(("lifelong", "target"), ALL)
    parts = opened(cut(content), 1)
    table, samples = rehearsal(manifest)
    scorer = PartialScorer(parts, manifest, table, parts.columns(table, in_memory))
    computed: list[int] = []

    plainly = SideSession.columns

    def columns(self: SideSession, tensors: Tensors) -> Columns:
        computed.append(len(next(iter(tensors.values()))))
        return plainly(self, tensors)

    monkeypatch.setattr(SideSession, "columns", columns)
    for sample in samples:
        scorer.run(sample)
        if not sample.knowledge:  # one history, and every candidate
            assert computed == [1, len(sample.rows)]
        else:
            assert computed == ([] if sample.described is None else [2])
        computed.clear()


def test_a_table_of_more_than_one_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    _, manifest, content = export_of(("din", "target"), ALL)
    parts = opened(cut(content), 1)
    table, samples = rehearsal(manifest)
    expected = [PartialScorer(parts, manifest, table, parts.columns(table, in_memory)).run(one) for one in samples]
    monkeypatch.setattr("service.scoring.scorers.CHUNK", 10)
    assert len(table) > 10
    for sample, scores in zip(samples, expected, strict=True):
        np.testing.assert_allclose(
            PartialScorer(parts, manifest, table, parts.columns(table, in_memory)).run(sample), scores, atol=1e-6
        )


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
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_a_model_whose_rows_depend_on_each_other_runs_as_a_whole(
    caplog: pytest.LogCaptureFixture, scale: float
) -> None:
    content = _softmax_over_candidates(scale)
    manifest = artifact_manifest(inputs=("item_numeric", "history_value"))
    cut(content)  # its shapes do not tell
    with caplog.at_level(logging.WARNING, scoring.__name__):
        assert in_parts(content, session(content, 1), manifest, 1) is None
    assert "runs as a whole: scores of its parts differ" in caplog.text


def test_a_model_that_tells_no_candidates_apart_runs_as_a_whole(caplog: pytest.LogCaptureFixture) -> None:
    """Whether its parts are right cannot be seen."""
    content = _softmax_over_candidates(1e-9)
    manifest = artifact_manifest(inputs=("item_numeric", "history_value"))
    with caplog.at_level(logging.WARNING, scoring.__name__):
        assert in_parts(content, session(content, 1), manifest, 1) is None
    assert "do not tell made-up candidates apart" in caplog.text


def test_a_model_without_a_part_of_items_alone_runs_as_a_whole() -> None:
    takes = [
        helper.make_tensor_value_info("user_vectors", TensorProto.FLOAT, [1, 2]),
        helper.make_tensor_value_info("score", TensorProto.FLOAT, [1]),
    ]
    node = helper.make_node("ReduceSum", ["user_vectors"], ["score"], keepdims=0)
    graph = helper.make_graph([node], "user", takes[:1], takes[1:])
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    with pytest.raises(UncutError, match="nothing in the graph"):
        cut(content)


def test_a_model_with_branches_runs_as_a_whole() -> None:
    model = onnx.load_model_from_string(model_bytes())
    inner = helper.make_graph([], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["never"], ["either"], then_branch=inner, else_branch=inner))
    with pytest.raises(UncutError, match="branches"):
        cut(model.SerializeToString())


def test_counting_candidates_needs_no_column_of_them() -> None:
    """A shape of the items' inputs becomes one of the rows."""
    _, _, content = export_of(("dcnv2", "learned"), ())
    parts = cut(content)
    taken = [one.name for one in onnx.load_model_from_string(parts.rest).graph.input]
    assert "item_index/column" not in taken
