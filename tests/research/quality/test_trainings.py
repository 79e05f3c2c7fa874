"""What the benchmark trains, and that a part of it asks for nothing that this part does not read."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import typer.testing

from offline.config import BenchmarkConfig, JobConfig
from offline.data.catalogue import DataError
from offline.data.log import InteractionLog
from offline.knowledge.vectors import Knowledge
from research.__main__ import app
from research.quality import run
from research.quality.peers import LONG_PEERS, PEERS, PeerResult
from research.quality.peers.samples import PeerSamples
from research.quality.run import Bench
from research.quality.trainings import (
    LONG_HISTORIES,
    WITHOUT_KNOWLEDGE,
    Circumstances,
    Training,
    peer_schema,
    trainings,
)
from tests.offline.pipeline import Pipeline
from tests.synthetic import Synthetic, synthetic

NOTHING = Knowledge({})


@pytest.fixture
def data(tmp_path: Path) -> Synthetic:
    return synthetic(tmp_path, users=20, items=20, events=20)


@pytest.fixture
def config(data: Synthetic) -> JobConfig:
    benchmark = BenchmarkConfig(shares=(0.5,), share_seeds=1, peer_history=6)
    return data.config.model_copy(update={"benchmark": benchmark})


@pytest.fixture
def no_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without the libraries of peers."""
    version = metadata.version

    def without(package: str) -> str:
        if package in ("fuxictr", "lightgbm"):
            raise metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(metadata, "version", without)


def test_long_peers_are_trained_only_if_somebody_asks(config: JobConfig, data: Synthetic) -> None:
    usual = trainings(config, data.knowledge, 2, 3)
    assert not {training.peer for training in usual} & {*LONG_PEERS}
    every = trainings(config, data.knowledge, 2, 3, long_peers=True)
    long = [training for training in every if training.peer in LONG_PEERS]
    assert every == [*usual, *long]
    assert [(training.peer, training.history, training.seed) for training in long] == [
        (name, events, 1) for events in LONG_HISTORIES for name in LONG_PEERS
    ]
    assert [training.label for training in trainings(config, data.knowledge, 1, 1, "ETA")] == [
        "ETA (FuxiCTR, 128 events), seed 1",
        "ETA (FuxiCTR, 256 events), seed 1",
    ]
    (training,) = trainings(config, data.knowledge, 1, 1, "SDIM (FuxiCTR, 256")
    assert peer_schema(config, training.history).history_length == 256
    assert peer_schema(config).history_length == 6


def test_each_length_has_circumstances_of_its_own(config: JobConfig, data: Synthetic, tmp_path: Path) -> None:
    pytest.importorskip("fuxictr")
    bench = Bench(config, data.catalogue, data.log, NOTHING, tmp_path)
    planned = [Training("ETA", "peer", 1, peer="ETA", history=events) for events in (0, 128, 256)]
    assert len({given.weights for given in bench.circumstances(planned)}) == 3


def test_samples_are_cut_to_the_length_of_each_training(
    config: JobConfig, data: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Circumstances("same", "same")
    lengths = []

    def quick(name: str, samples: PeerSamples, *_: object, **__: object) -> PeerResult:
        lengths.append((name, samples.history.shape[1]))
        scores = [np.full(len(samples.of(split)), 0.5, np.float32) for split in ("validation", "test")]
        return PeerResult(scores[0], scores[1], (0.5,), (1.0,), 1, 1.0)

    monkeypatch.setattr(run, "train_peer", quick)
    bench = Bench(config, data.catalogue, data.log, NOTHING, tmp_path)
    for events in (0, 128, 256):
        run._train(bench, Training(f"ETA {events}", "peer", 1, peer="ETA", history=events), given)
    assert lengths == [("ETA", 6), ("ETA", 128), ("ETA", 256)]


@pytest.mark.parametrize("only", [*PEERS, WITHOUT_KNOWLEDGE])
def test_what_reads_no_knowledge_needs_none(config: JobConfig, only: str) -> None:
    assert all(only in training.model for training in trainings(config, NOTHING, 1, 1, only))


@pytest.mark.parametrize("only", ["", "Lorank"])
def test_what_reads_knowledge_says_what_to_do_without_it(config: JobConfig, only: str) -> None:
    with pytest.raises(DataError, match=r"make it first \(python -m offline knowledge\), or choose .* \(--only\)"):
        trainings(config, NOTHING, 1, 1, only)


def test_a_name_that_nothing_has_is_told_what_there_is(config: JobConfig) -> None:
    with pytest.raises(DataError, match=r"contains 'XDeepFM'; models are .*DCNv2 \(FuxiCTR\).*ETA, SDIM"):
        trainings(config, NOTHING, 1, 1, "XDeepFM")


def test_a_library_is_missed_before_anything_is_trained(
    config: JobConfig, data: Synthetic, tmp_path: Path, no_libraries: None
) -> None:
    bench = Bench(config, data.catalogue, data.log, NOTHING, tmp_path)
    for name, package in (("DIN", "fuxictr"), ("LightGBM", "lightgbm")):
        with pytest.raises(DataError, match=rf"{name} .*needs {package}: pip install -e .*peers.*--only"):
            bench.circumstances(trainings(config, NOTHING, 1, 1, name))
    bench.circumstances(trainings(config, NOTHING, 1, 1, "Bayesian"))
    bench.circumstances(trainings(config, NOTHING, 1, 1, WITHOUT_KNOWLEDGE))


def test_one_peer_on_a_machine_where_no_job_ever_ran(
    fresh: Pipeline, tmp_path: Path, no_libraries: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("research.cli.quality.job_of", lambda config, data_dir, **_: fresh.job)
    command = ["benchmark", "--only", "Bayesian", "--peer-seeds", "1", "--validation", "--workers", "1"]
    result = typer.testing.CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "| Bayesian (ALS factors) | peer |" in result.output
    assert not InteractionLog.is_saved(fresh.job.log)
