"""ONNX Runtime, loaded here only, so that its telemetry is off before it begins; and sessions as they serve requests.

Since 1.31 its import alone sends events to Microsoft, again every few seconds while that fails, and writes a persistent
device id into HOME; a setting made after the import comes too late. Services and jobs therefore load it when they open
their first graph, through ``onnx_runtime``, whichever way the process began.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

TELEMETRY = "ORT_DISABLE_TELEMETRY"
"""Environment variable of ONNX Runtime's telemetry, which the value "1" and no other switches off."""

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class InferenceSession(Protocol):
    """What is used of ``onnxruntime.InferenceSession``; for types, because importing the class begins the telemetry."""

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any]) -> list[Any]: ...
    def get_inputs(self) -> list[Any]: ...
    def get_outputs(self) -> list[Any]: ...
    def get_providers(self) -> list[str]: ...
    def get_modelmeta(self) -> Any: ...


def onnx_runtime() -> Any:
    """The module ``onnxruntime``. The telemetry is off unless the environment has a value for it, which stays."""
    os.environ.setdefault(TELEMETRY, "1")
    import onnxruntime

    return onnxruntime


def open_session(graph: bytes | Path, threads: int, *, cuda: bool = False) -> InferenceSession:
    """A session of a graph on the CPU, or with ``cuda`` on CUDA where that is installed. Weights beside a graph in a
    file are mapped, not read. Blocks for as long as reading and optimising the graph takes."""
    onnxruntime = onnx_runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_mem_pattern = False  # candidate counts vary; patterns per shape would only grow (onnxruntime #9313)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = [_CUDA, _CPU] if cuda and has_cuda() else [_CPU]
    session: InferenceSession = onnxruntime.InferenceSession(graph, options, providers=providers)
    return session


def has_cuda() -> bool:
    """Whether the installed ONNX Runtime is the one for CUDA."""
    return _CUDA in onnx_runtime().get_available_providers()


def makes_threads(threads: int) -> bool:
    """Whether a session has threads of its own, which inherit the priority of the thread that makes it."""
    return threads > 1 or has_cuda()


def runtime() -> str:
    """Name and version of what runs graphs: another one may compute other columns."""
    return f"onnxruntime {onnx_runtime().__version__}"
