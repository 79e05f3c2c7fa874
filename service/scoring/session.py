"""Sessions of ONNX Runtime as the service wants them."""

from __future__ import annotations

from pathlib import Path

from models.onnx_runtime import InferenceSession, onnx_runtime

_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


def session(graph: bytes | Path, threads: int) -> InferenceSession:
    """A session of a graph, on CUDA where it is installed. Weights beside a graph in a file are mapped, not read."""
    onnxruntime = onnx_runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_mem_pattern = False  # candidate counts vary; patterns per shape would only grow (onnxruntime #9313)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    available = onnxruntime.get_available_providers()
    providers = [name for name in _PROVIDERS if name in available]
    opened: InferenceSession = onnxruntime.InferenceSession(graph, options, providers=providers)
    return opened


def makes_threads(threads: int) -> bool:
    """Whether a session has threads of its own, which inherit the priority of the thread that makes it."""
    return threads > 1 or _PROVIDERS[0] in onnx_runtime().get_available_providers()


def runtime() -> str:
    """What runs graphs: another version may read kept files in another way."""
    return f"onnxruntime {onnx_runtime().__version__}"
