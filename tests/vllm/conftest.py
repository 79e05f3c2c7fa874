"""One real vLLM server on this machine's CPU for all tests of this folder: the packaged SmolLM2.

It computes in the arithmetic of this machine.

`make test-vllm` installs vLLM into an environment of its own and names it in LORANK_VLLM_ENV.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from offline.llm.vllm_server import VllmServer, running_vllm
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
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    assert ENVIRONMENT
    folder = tmp_path_factory.mktemp("vllm")
    checkpoint = Weights.find(None).checkpoint(folder / "checkpoints")
    log = folder / "server.log"
    with running_vllm(Path(ENVIRONMENT), checkpoint, MODEL, log, context=CONTEXT, patience_seconds=600) as server:
        print(f"vLLM ready after {server.start_seconds:.0f} s, log {log}")
        yield server
