"""What all tests share: one real Valkey server per process, and the check that no process outlives the tests.

One real installation for all end-to-end tests: MovieLens-100K, the real pipeline, a Valkey of its own, a real service.
Only the trainings are shortened (one model, one epoch, little fitting), so that the whole takes a few minutes.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from xdist.scheduler import LoadScopeScheduling

from models.valkey.embedded import embedded_redis
from offline.child import child_python
from offline.config import DEMO_EXPERIMENTS, load_config
from offline.demo import running_service
from offline.jobs.ledger import RunLedger
from offline.jobs.steps import Job
from offline.libraries import quiet_libraries
from offline.publish.connection import Store, open_store
from tests.leftovers import no_process_is_left
from tests.servers import Cluster, running_cluster

__all__ = ["no_process_is_left"]  # a fixture, by its import

ROOT = Path(__file__).parents[1]

TOGETHER = {
    "tests/e2e/test_clients.py": "clients",
    "tests/e2e/test_own_data.py": "own data",
    "tests/e2e/": "installation",
    "tests/test_readme.py": "installation",
    "tests/models/test_export.py": "exports",
    "tests/models/test_split.py": "exports",
    "tests/offline/publish/": "publish",
    "tests/offline/reranking/": "reranking",
    "tests/research/quality/": "quality",
    "tests/vllm/": "vllm",
}
"""Beginnings of the paths of files, the first that fits, and what the tests of these files share."""

SHORT_KNOWLEDGE = """
[knowledge.autograph.user_factors]
size = 64
steps = 50
kmeans_iterations = 5

[knowledge.autograph.item_factors]
size = 64
steps = 50
kmeans_iterations = 5

[knowledge.autograph.network]
slices = 2

[knowledge.autograph.fitting]
epochs = 1
refit = false

[knowledge.marc.compression]
epochs = 1

[training.tree]
trees = 20
"""


def pytest_configure() -> None:
    """As the jobs do: nothing is sent, nothing written into HOME, and torch's waiting threads take no core from each
    other. Processes that test side by side have a core each, and so do those that they start."""
    quiet_libraries()
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module", autouse=True)
def memory_goes_back() -> Iterator[None]:
    """After each file, what its tests no longer need goes back to the system: models lie in cycles that the collector
    meets late, and the allocator keeps what it once had. Without, a process of the suite grows to 2.5 GB. What is left
    stays to the end, libraries most of all, and is not looked at again: each look at it would take half a second."""
    yield
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)


class ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """Processes that test side by side (pytest -n 2) share no fixture: the tests of a file stay together, and so do
    those of files that share something costly. (xdist's own groups do nothing with pytest 9.2.)"""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((shared for beginning, shared in TOGETHER.items() if file.startswith(beginning)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Files in their order, which has the end-to-end tests early. By default those of few tests come last, and these
    are the long ones: one process would wait for the other."""
    config.option.loadscopereorder = False
    return ByFile(config, log)


@dataclass(frozen=True, slots=True)
class Installation:
    """A data folder with a configuration, and the way to run jobs in it."""

    data_dir: Path
    config: Path

    @property
    def job(self) -> Job:
        return Job(load_config(self.config), self.data_dir)

    def offline(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """``python -m offline ARGUMENTS`` as a process of its own; its output is shown if it fails."""
        options = ("--config", str(self.config), "--data-dir", str(self.data_dir))
        command = child_python("-m", "offline", *arguments, *options)
        result = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False)
        assert not check or result.returncode == 0, result.stdout + result.stderr
        return result

    def store(self) -> Iterator[Store]:
        with open_store(self.data_dir, self.job.config.name) as store:
            yield store


def clean_environment() -> dict[str, str]:
    """The environment without settings of the machine's own installation."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LORANK_")}


@pytest.fixture(scope="session")
def shared_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the server that all tests of this process share. Each has a key prefix of its own and leaves other keys
    alone."""
    with embedded_redis(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture
def valkey(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of the shared server; of one of its own for a test that is marked ``own_valkey``."""
    if request.node.get_closest_marker("own_valkey") is None:
        yield request.getfixturevalue("shared_valkey")
        return
    with embedded_redis(request.getfixturevalue("tmp_path_factory").mktemp("valkey")) as url:
        yield url


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three primaries without replicas, which all tests of this process share as they do ``shared_valkey``."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A finished first refresh, with the embedded Redis held open."""
    folder = tmp_path_factory.mktemp("lorank")
    text = (ROOT / "configs/ml-100k.toml").read_text()
    for pattern, value in (
        (r'workdir = ".*?"', f'workdir = "{folder / "ml-100k"}"'),
        (r"epochs = \d+", "epochs = 1"),
        (r"\Z", SHORT_KNOWLEDGE),
    ):
        text, changed = re.subn(pattern, value, text)
        assert changed == 1, f"configs/ml-100k.toml has no {pattern}"
    config = folder / "short.toml"
    config.write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("LORANK_")]:
            patch.delenv(name)
        finished = Installation(folder / "data", config)
        with open_store(finished.data_dir, "ml-100k"):
            finished.offline("refresh")
            yield finished


@pytest.fixture(scope="session")
def first_ledger(installation: Installation) -> dict[str, Any]:
    """What the first refresh asked of the language model."""
    return RunLedger(installation.job.config.workdir).accounts()[0].document()


@pytest.fixture(scope="session")
def base_url(installation: Installation) -> Iterator[str]:
    """The base URL of ``python -m service`` over the installation, with the demo's experiment won by its second arm."""
    file = installation.data_dir / "experiments.toml"
    arms = DEMO_EXPERIMENTS.read_text().split("weight = 0.5")
    file.write_text(f"{arms[0]}weight = 0{arms[1]}weight = 1{arms[2]}")
    with running_service(installation.job, 0, {"LORANK_EXPERIMENTS": str(file)}) as service:
        yield service.url


class PatientTransport(httpx2.HTTPTransport):
    """A transport that asks again after a 429, as every client of the service has to: on a machine with more to do than
    it can, the service refuses what would come too late."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        for _ in range(50):
            response = super().handle_request(request)
            if response.status_code != httpx2.codes.TOO_MANY_REQUESTS:
                break
            response.read()  # so that its connection is free again
            time.sleep(0.2)
        return response


@pytest.fixture
def client(base_url: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=base_url, timeout=10.0, transport=PatientTransport()) as client:
        yield client


@pytest.fixture
def store(installation: Installation) -> Iterator[Store]:
    yield from installation.store()
