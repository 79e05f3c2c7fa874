"""A model in parts as files: checked and cut once, then opened by every process in a moment.

Weights lie in one file beside the graphs. ONNX Runtime maps it, so that all processes of a machine, and the graphs that
share a weight, hold it once. Knows ONNX files. Does not know when they are still good.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, numpy_helper

from models.contract.artifact import ArtifactManifest
from service.scoring.partial import Parts
from service.scoring.scorers import PartSessions
from service.scoring.session import session

_MANIFEST, _ITEMS, _HISTORY, _REST, _WEIGHTS = "manifest.json", "items.onnx", "history.onnx", "rest.onnx", "weights"

_PAGE = 4096

_LARGE_BYTES = 65_536
"""Smaller weights stay in their graph, where ONNX Runtime may fold them into others."""


def keep_parts(folder: Path, artifact: ArtifactManifest, parts: Parts) -> None:
    """Write a model's parts and its manifest to a folder."""
    with _Weights(folder) as weights:
        for name, graph in ((_ITEMS, parts.items), (_HISTORY, parts.history), (_REST, parts.rest)):
            if graph is not None:
                weights.take_out(name, graph)
    (folder / _MANIFEST).write_text(artifact.model_dump_json())


def kept_parts(folder: Path, threads: int) -> tuple[ArtifactManifest, PartSessions]:
    """What ``keep_parts`` wrote. Any error means that it cannot be used."""
    artifact = ArtifactManifest.model_validate_json((folder / _MANIFEST).read_text())
    items, rest = session(folder / _ITEMS, threads), session(folder / _REST, threads)
    history = session(folder / _HISTORY, threads) if (folder / _HISTORY).exists() else None
    return artifact, PartSessions.of(items, history, rest)


class _Weights:
    """The file of weights, each written once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[str, tuple[int, int]] = {}

    def __enter__(self) -> _Weights:
        self._file = (self._folder / _WEIGHTS).open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def take_out(self, name: str, graph: bytes) -> None:
        """Write a graph whose large weights are in the file."""
        model: ModelProto = onnx.load_model_from_string(graph)
        for one in model.graph.initializer:
            if one.ByteSize() > _LARGE_BYTES:
                self._take(one)
        (self._folder / name).write_bytes(model.SerializeToString())

    def _take(self, weight: TensorProto) -> None:
        if weight.name not in self._places:
            content = numpy_helper.to_array(weight).tobytes()
            self._file.write(bytes(-self._file.tell() % _PAGE))
            self._places[weight.name] = self._file.tell(), len(content)
            self._file.write(content)
        offset, length = self._places[weight.name]
        bare = TensorProto(name=weight.name, data_type=weight.data_type, dims=weight.dims)
        bare.data_location = TensorProto.EXTERNAL
        for key, value in (("location", _WEIGHTS), ("offset", str(offset)), ("length", str(length))):
            bare.external_data.add(key=key, value=value)
        weight.CopyFrom(bare)
