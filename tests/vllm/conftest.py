"""One real vLLM server on this machine's CPU for all tests of this folder: the packaged SmolLM2.

It computes in float32, in which few scores of labels are equal, on every machine.

`make test-vllm` installs vLLM into an environment of its own and names it in LORANK_VLLM_ENV.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.vllm_server import Vllm, VllmServer
from offline.llm.arithmetic import Precision
from offline.llm.weights import Weights

VARIABLE = "LORANK_VLLM_ENV"
MODEL = "smollm2-135m-instruct"
CONTEXT = 2048

# Read here, because the fixtures of other tests take LORANK_* out of the environment.
ENVIRONMENT = os.environ.get(VARIABLE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without the environment nothing runs; with one that is broken, the tests fail."""
    if not ENVIRONMENT:
        skip = pytest.mark.skip(reason=f"needs vLLM: run `make test-vllm`, or name an environment in {VARIABLE}")
        here = Path(__file__).parent
        for item in items:
            if here in item.path.parents:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged model as a transformers folder."""
    return Weights.find(None).checkpoint(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="session")
def vllm(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    with server_of(checkpoint, tmp_path_factory.mktemp("vllm"), precision="float32") as server:
        yield server


@contextmanager
def server_of(checkpoint: Path, folder: Path, precision: Precision, port: int = 0) -> Iterator[VllmServer]:
    """A server whose log lies in ``folder``; ``port`` 0 takes a free one."""
    assert ENVIRONMENT
    log = folder / "server.log"
    vllm = Vllm(Path(ENVIRONMENT), checkpoint, MODEL, log, port=port, context=CONTEXT, precision=precision)
    with vllm.running(patience_seconds=600) as server:
        print(f"vLLM ready after {server.start_seconds:.0f} s, log {log}")
        yield server
