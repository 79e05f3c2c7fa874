"""Graphs that stand in for trained models: they score by popularity, against it, or as a trained one turned around."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = helper.make_opsetid("", 18)


def by_popularity(sign: float = 1.0) -> onnx.GraphProto:
    """The share of likes of each candidate, times ``sign``: 0 scores all alike."""
    return helper.make_graph(
        [
            helper.make_node("Gather", ["item_numeric", "liked_rate"], ["rate"], axis=1),
            helper.make_node("Mul", ["rate", "sign"], ["score"]),
        ],
        "by popularity",
        [helper.make_tensor_value_info("item_numeric", TensorProto.FLOAT, ["candidates", 3])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["candidates"])],
        [
            numpy_helper.from_array(np.array(2, np.int64), "liked_rate"),
            numpy_helper.from_array(np.array(sign, np.float32), "sign"),
        ],
    )


def popular(graph: onnx.GraphProto) -> None:
    """Makes ``graph`` one that scores by popularity."""
    graph.CopyFrom(by_popularity())


def constant(graph: onnx.GraphProto) -> None:
    """Makes ``graph`` one that scores all candidates alike."""
    graph.CopyFrom(by_popularity(0.0))


def inverted(graph: onnx.GraphProto) -> None:
    """Turns the order of ``graph`` around."""
    _continue(graph, helper.make_node("Neg", ["former_score"], ["score"]))


def coarsely_inverted(graph: onnx.GraphProto) -> None:
    """Turns the order of ``graph`` around, and tells only yes from no."""
    _continue(
        graph,
        helper.make_node("Round", ["former_score"], ["verdict"]),
        helper.make_node("Neg", ["verdict"], ["score"]),
    )


def _continue(graph: onnx.GraphProto, *nodes: onnx.NodeProto) -> None:
    for node in graph.node:
        node.output[:] = ["former_score" if name == "score" else name for name in node.output]
    graph.node.extend(nodes)


def broken(graph: onnx.GraphProto) -> None:
    """Makes ``graph`` one that fails when it is run: its input is wider than any item's."""
    graph.CopyFrom(by_popularity())
    graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4
