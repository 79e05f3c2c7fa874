"""ONNX Runtime, loaded here only, so that its telemetry is off before it begins.

Since 1.31 its import alone sends events to Microsoft, again every few seconds while that fails, and writes a persistent
device id into HOME; a setting made after the import comes too late. Services and jobs therefore load it when they open
their first graph, through ``onnx_runtime``, whichever way the process began.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

TELEMETRY = "ORT_DISABLE_TELEMETRY"
"""Environment variable of ONNX Runtime's telemetry, which the value "1" and no other switches off."""


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
