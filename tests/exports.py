"""Exports in the trainings of tests: models of one form share one graph, which takes the exporter seconds, and
each has its weights written into it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from models.contract.arrays import FloatArray
from models.contract.artifact import METADATA_KEY, ArtifactManifest
from models.contract.encoding import Tensors
from models.ctr.export import export_onnx, parity
from offline.training import artifact
from offline.training.artifact import MAX_PARITY_DIFFERENCE

FIRST = 1000.5
"""Stands for the first weight, and its successors for the next ones: numbers that no constant is."""

Places = dict[str, tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]]


@dataclass(frozen=True)
class _Graph:
    """``places``: by the name of an initializer the cells that are weights, and which of all weights each is."""

    proto: onnx.ModelProto
    places: Places

    def of(self, weights: FloatArray, manifest: ArtifactManifest) -> bytes:
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        for initializer in proto.graph.initializer:
            if initializer.name in self.places:
                cells, index = self.places[initializer.name]
                array = numpy_helper.to_array(initializer).copy()
                array[cells] = weights[index]
                initializer.CopyFrom(numpy_helper.from_array(array, initializer.name))
        for entry in proto.metadata_props:
            if entry.key == METADATA_KEY:
                entry.value = manifest.model_dump_json()
        return bytes(proto.SerializeToString())


_graphs: dict[str, _Graph] = {}


def export_of_its_form(model: nn.Module, manifest: ArtifactManifest, example: Tensors) -> bytes:
    """As ``export_onnx`` does, for DIN. What else than weights is written into a graph would show in its scores."""
    if manifest.architecture != "din":
        return export_onnx(model, manifest, example)
    form = _form(model, manifest, example)
    if form not in _graphs:
        _graphs[form] = _graph(model, manifest, example)
    content = _graphs[form].of(_weights(model), manifest)
    if parity(model, content, manifest, [example]) < MAX_PARITY_DIFFERENCE:
        return content
    return export_onnx(model, manifest, example)


def _form(model: nn.Module, manifest: ArtifactManifest, example: Tensors) -> str:
    """All that a graph depends on but the weights."""
    state = [(name, tuple(value.shape), str(value.dtype)) for name, value in model.state_dict().items()]
    lengths = [(name, len(example[name]), example[name].shape[1:2]) for name in manifest.inputs]
    parts = (str(model), state, manifest.inputs, manifest.feature_schema.model_dump_json(exclude={"name"}), lengths)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _floats(model: nn.Module) -> list[torch.Tensor]:
    return [value for _, value in sorted(model.state_dict().items()) if value.dtype == torch.float32]


def _weights(model: nn.Module) -> FloatArray:
    """All of them, one after the other."""
    return np.concatenate([value.detach().numpy().ravel() for value in _floats(model)])


def _graph(model: nn.Module, manifest: ArtifactManifest, example: Tensors) -> _Graph:
    """That of a copy whose weights are all different, so that they are recognised wherever the exporter put them:
    transposed, cut or joined."""
    probe = copy.deepcopy(model)
    first = 0
    with torch.no_grad():
        for value in _floats(probe):
            value.copy_((torch.arange(first, first + value.numel()) + FIRST).view_as(value))
            first += value.numel()
    proto = onnx.load_model_from_string(export_onnx(probe, manifest, example))
    places: Places = {}
    for initializer in proto.graph.initializer:
        array = numpy_helper.to_array(initializer)
        if array.dtype == np.float32:
            index = np.rint(array - FIRST).astype(np.int64)
            cells = (array == index + FIRST) & (index >= 0) & (index < first)
            if cells.any():
                places[initializer.name] = cells, index[cells]
    return _Graph(proto, places)


@pytest.fixture(scope="session", autouse=True)
def graphs_are_shared() -> Iterator[None]:
    """By all trainings of this process, where a conftest.py imports this. Tests of exports export really, and so do
    jobs as processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifact, "export_onnx", export_of_its_form)
        yield
