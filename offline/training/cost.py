"""The time that a service needs to score candidates by a model, on a core that is the same for everybody.

Milliseconds of this machine would let the choice of a model hang on the machine, and on who else is busy on it. Each
model is therefore timed in turns with a yardstick, a graph that never changes, and its time is told on the core that
takes ``REFERENCE_MS`` for the yardstick.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.contract.arrays import IntArray
from models.contract.encoding import Sample
from models.onnx_runtime import open_session
from models.split_model import SplitModel, WholeModel, parts_folder
from offline.training.artifact import write_artifact
from offline.training.samples import SampleEncoder

SCORED = 500
"""Candidates of the request that is timed."""

REFERENCE_MS = 1.5
"""Of the yardstick on the core that all times are told of. It was never timed there: the core stands for the AMD EPYC
with AVX-512 that docs/quality.md's first times are of, and the number makes those of MovieLens-1M come out about the
same. An AMD EPYC with AVX2 alone took 1.8 to 2.4 (2026-11-30)."""

_USERS = 30
_REPEATS = 5
_WIDTH, _ITEMS, _LAYERS, _SUMS = 256, 5000, 2, 6


def scoring_milliseconds(content: bytes, encoder: SampleEncoder, rows: IntArray) -> float:
    """Median time, on the reference core, of scoring 500 items for the users of samples at some of these log rows, with
    the histories that they had. The model in ``content`` runs in parts if it can be split, as a service runs it."""
    with tempfile.TemporaryDirectory() as folder:
        artifact = write_artifact("candidate", content, Path(folder))
        path = Path(folder) / artifact.name
        model = SplitModel.open(parts_folder(path), 1) if artifact.parts else WholeModel.open(path, 1)
        columns = model.table_columns(encoder.table) if isinstance(model, SplitModel) else {}
        generator = np.random.default_rng(0)
        ratios = []
        for row in generator.choice(rows, _USERS, replace=len(rows) < _USERS):
            items = generator.integers(1, len(encoder.table), size=SCORED)
            sample = Sample(encoder.users(np.array([row])), items)
            ratios.append(ratio_to_yardstick(partial(model.scores, sample, encoder.table, columns)))
    return REFERENCE_MS * float(np.median(ratios))


def ratio_to_yardstick(call: Callable[[], Any]) -> float:
    """Processor time of a call over that of the yardstick, run in turns; of each the least of a few runs."""
    own, yardstick = [], []
    for _ in range(_REPEATS):
        yardstick.append(_thread_seconds(_yardstick()))
        own.append(_thread_seconds(call))
    return min(own) / min(yardstick)


def _thread_seconds(call: Callable[[], Any]) -> float:
    started = time.thread_time()
    call()
    return time.thread_time() - started


@cache
def _yardstick() -> Callable[[], Any]:
    """Runs a graph that does what models do, in fixed sizes: rows of a table for 500 candidates, two layers, sums."""
    generator = np.random.default_rng(0)
    table = generator.standard_normal((_ITEMS, _WIDTH), np.float32)
    constants = [numpy_helper.from_array(table, "table")]
    nodes, last = [helper.make_node("Gather", ["table", "rows"], ["items"], axis=0)], "items"
    for layer in range(_LAYERS):
        weights = generator.standard_normal((_WIDTH, _WIDTH), np.float32) / _WIDTH**0.5
        constants.append(numpy_helper.from_array(weights.astype(np.float32), f"weights_{layer}"))
        nodes.append(helper.make_node("MatMul", [last, f"weights_{layer}"], [f"product_{layer}"]))
        nodes.append(helper.make_node("Relu", [f"product_{layer}"], [f"sum_{layer}_0"]))
        nodes += [
            helper.make_node("Add", [f"sum_{layer}_{at}", "items"], [f"sum_{layer}_{at + 1}"]) for at in range(_SUMS)
        ]
        last = f"sum_{layer}_{_SUMS}"
    nodes.append(helper.make_node("Sigmoid", [last], ["squashed"]))
    nodes.append(helper.make_node("ReduceMean", ["squashed"], ["score"], axes=[1], keepdims=0))
    graph = helper.make_graph(
        nodes,
        "yardstick",
        [helper.make_tensor_value_info("rows", TensorProto.INT64, [SCORED])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [SCORED])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    session = open_session(model.SerializeToString(), 1)
    rows = generator.integers(_ITEMS, size=SCORED)
    return lambda: session.run(["score"], {"rows": rows})
