"""torch -> ONNX: one self-contained file with the artifact manifest in its metadata.

The exported graph takes one user (leading dimension 1) with a history of any length up to the schema's, and a free
number of candidates, and answers probabilities.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from models.contract.artifact import METADATA_KEY, ArtifactManifest
from models.contract.encoding import HISTORY_INPUTS, ITEM_INPUTS, Tensors
from models.onnx_runtime import onnx_runtime


class _Serving(nn.Module):
    """Named inputs as positional arguments, logits as probabilities."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: Tensor) -> Tensor:
        return torch.sigmoid(self.model(dict(zip(self.names, tensors, strict=True))))


def export_onnx(model: nn.Module, manifest: ArtifactManifest, example: Tensors) -> bytes:
    """The bytes of the ONNX file. ``example`` holds one user with at least two events and at least two
    candidates, where the schema's history has room for two."""
    serving = _Serving(model, manifest.inputs).eval()
    arguments = tuple(torch.from_numpy(np.ascontiguousarray(example[name])) for name in manifest.inputs)
    candidates = torch.export.Dim("candidates", min=1, max=1_000_000)
    longest = manifest.feature_schema.history_length
    events = {1: torch.export.Dim("events", min=1, max=longest)} if longest > 1 else {}
    shapes = tuple(
        {0: candidates} if name in ITEM_INPUTS else events if name in HISTORY_INPUTS else {} for name in manifest.inputs
    )
    with _quiet(), torch.inference_mode():
        program = torch.onnx.export(
            serving,
            arguments,
            dynamo=True,
            input_names=list(manifest.inputs),
            output_names=["score"],
            dynamic_shapes=(shapes,),
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    for graph_input in proto.graph.input:
        name = graph_input.name
        axis = 0 if name in ITEM_INPUTS else 1 if name in HISTORY_INPUTS and longest > 1 else None
        if axis is not None and not graph_input.type.tensor_type.shape.dim[axis].dim_param:
            raise ValueError(f"the exported graph takes {name} of one length only")
    _strip_annotations(proto)
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, manifest.model_dump_json()
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString())


def _strip_annotations(proto: onnx.ModelProto) -> None:
    """Remove the exporter's notes. They quote source lines with the paths of this machine, so that equal models would
    differ, and be different releases, by the folder they were trained in."""
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns about its own internals and about libraries that are not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def parity(model: nn.Module, artifact: bytes, manifest: ArtifactManifest, users: list[Tensors]) -> float:
    """Largest absolute difference between torch's and ONNX Runtime's probabilities over all users' candidates."""
    session = onnx_runtime().InferenceSession(artifact, providers=["CPUExecutionProvider"])
    serving = _Serving(model, manifest.inputs).eval()
    worst = 0.0
    for tensors in users:
        feed = {name: tensors[name] for name in manifest.inputs}
        with torch.inference_mode():
            expected = serving(*(torch.from_numpy(np.ascontiguousarray(array)) for array in feed.values())).numpy()
        worst = max(worst, float(np.abs(session.run(["score"], feed)[0] - expected).max()))
    return worst
