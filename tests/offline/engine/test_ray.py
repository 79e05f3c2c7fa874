"""A job in one process and the same job on a Ray of two workers: equal bytes, and no prompt asked twice."""

import importlib.util
import json
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from offline.child import child_python
from tests.conftest import ROOT, clean_environment
from tests.offline.config_file import write_config
from tests.offline.knowledge.marc.fakes import tiny_model
from tests.offline.llm import chat_server
from tests.offline.llm.chat_server import ChatServer, running_server
from tests.offline.pipeline import Pipeline, answer_to, pipeline
from tests.synthetic import PARTITION_SIZE

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="engine 'ray' needs the extra: pip install 'lorank[ray]'"
)


COMPRESSION = {"hidden": 8, "matching_width": 8, "epochs": 1, "batch_size": 64, "held_out": 0.65}
QUANTISER = {"size": 4, "levels": 2, "hidden": 8, "dim": 4, "steps": 10, "batch": 16}
FITTING = {
    "user_factors": QUANTISER,
    "item_factors": QUANTISER,
    "network": {"hidden": 8, "dim": 8, "slices": 2},
    "fitting": {"epochs": 1, "batch": 64},
}


@dataclass(frozen=True, slots=True)
class Summary:
    """The work of a job: prompts that it paid, chunks of hidden states, names of the files of knowledge."""

    prompts: int
    chunks: int
    files: frozenset[str]


def run(*words: str) -> str:
    """The output of a process that ends well. Whatever it starts has ended with it, or soon after."""
    mark = uuid.uuid4().hex
    environment = clean_environment() | {"NO_PROXY": "127.0.0.1", "LORANK_TEST_RUN": mark}
    environment.pop("RAY_ADDRESS", None)
    command = child_python("-m", *words)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    deadline = time.monotonic() + 180  # Ray's workers notice by themselves, late where others want the cores
    while left := processes(mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.5)
    return done.stdout


def processes(mark: str) -> list[str]:
    """Command lines of living processes with this setting in their environment; Linux tells."""
    lines = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone in between, or somebody else's
            if mark.encode() in (folder / "environ").read_bytes():
                lines.append((folder / "cmdline").read_text().replace("\0", " "))
    return lines


def knowledge(
    engine: str, server: ChatServer, model: Path, installation: Pipeline
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Summary of the job, and every file of knowledge that it made."""
    document = installation.config.model_dump(mode="json", exclude_none=True, exclude_unset=True)
    document["knowledge"]["marc"] = {"model": str(model), "max_tokens": 32, "compression": COMPRESSION}
    document["knowledge"]["autograph"] = FITTING
    document["llm"] = {"backend": "openai", "base_url": server.base_url, "model": "tiny", "concurrency": 8}
    document["arithmetic"] = "float32"  # workers that measure on busy cores could choose another one
    config = installation.folder / "job.toml"
    write_config(document, config)
    options = ("--engine", engine, "--config", str(config), "--data-dir", str(installation.folder / "data"))
    said = run("tests.offline.engine.job", "knowledge", *options)
    files = sorted(path for path in installation.job.knowledge.rglob("*") if path.is_file())
    assert ("Ray: 2 workers on this machine" in said) == (engine == "ray")
    contents = {str(path.relative_to(installation.job.knowledge)): path.read_bytes() for path in files}
    return json.loads(said.splitlines()[-1]), contents


def reads(installation: Pipeline, producers: Sequence[tuple[str, str]]) -> Pipeline:
    """The same whose schema reads these (producer, side), and no others."""
    sides = [{"name": name, "side": side, "dim": 8} for name, side in producers]
    schema = installation.config.feature_schema.model_dump(mode="json", exclude_unset=True)
    return installation.with_config(feature_schema={**schema, "knowledge": sides})


def same_bytes(install: Callable[[Path], Pipeline], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Summary:
    """Of a job in one process and the same on Ray, asserted equal."""
    monkeypatch.setattr(chat_server, "answer_to", answer_to)  # answers that the quality rules accept
    model = tiny_model(folder / "model")
    with running_server() as server:
        summary, alone = knowledge("local", server, model, install(folder / "local"))
        assert summary["status"] == "done"
        assert set(server.asked.values()) == {1}
        bodies = sorted(map(repr, server.bodies))
        server.bodies.clear()
        on_ray, by_workers = knowledge("ray", server, model, install(folder / "ray"))
    assert sorted(map(repr, server.bodies)) == bodies  # every prompt once more, and nothing else
    assert on_ray["llm"]["paid"] == summary["llm"]["paid"] == len(bodies)
    assert sorted(alone) == sorted(by_workers)
    assert any(name.startswith("marc/compressor") for name in alone)
    for name, content in alone.items():
        assert by_workers[name] == content, name
    return Summary(len(bodies), sum("depth-0.5" in name for name in alone), frozenset(alone))


def test_a_job_on_ray_makes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that crosses to the workers, with no producer too many: two waves of prompts, one batch of texts, two
    chunks of hidden states. Each crossing starts processes that load torch, which is what this test costs."""

    def install(folder: Path) -> Pipeline:
        small = pipeline(
            folder, "", "unused", users=40, items=12, events=2 * PARTITION_SIZE - 1
        )  # no shifts of interest
        return reads(small, [("text", "item"), ("marc", "user"), ("marc", "item")])

    summary = same_bytes(install, tmp_path, monkeypatch)
    assert (summary.prompts, summary.chunks) == (40 + 12, 4)


@pytest.mark.slow(small="tests/offline/engine/test_ray.py::test_a_job_on_ray_makes_the_same_bytes")
def test_a_job_of_all_producers_on_ray_makes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def install(folder: Path) -> Pipeline:
        sides = [(name, side) for name in ("autograph", "marc") for side in ("user", "item")]
        return reads(pipeline(folder, "", "unused"), [("text", "item"), ("liber", "user"), *sides])

    summary = same_bytes(install, tmp_path, monkeypatch)
    assert summary.prompts > 30
    assert summary.chunks > 2
    assert "autograph/vectors.npz" in summary.files


def test_an_error_of_the_work_is_told_in_its_own_words() -> None:
    lines = [line for line in run("tests.offline.engine.failing").splitlines() if "(raylet)" not in line]  # Ray's own
    started, results, error, of_model, killed = lines
    assert started == "  Ray: 1 workers on this machine"
    assert results == "[(0, 3), (1, 4)]"
    assert error == "batch 1: ZeroDivisionError: integer division or modulo by zero"
    assert of_model == "hidden states of broken: batch 0: RuntimeError: no kernel for 2 texts"
    assert killed.startswith("a worker died, and again in every new try: ")
