"""How long a run will take, measured beside a run that may be at work: nothing of it enters the ledger."""

from __future__ import annotations

from pathlib import Path

import pytest

from offline.jobs.rates import line_of_training, measure
from offline.jobs.work import Work
from offline.llm.account import open_accounts
from offline.llm.budget import CostEstimate
from offline.llm.protocol import Prompt, UnusableBackendError
from offline.training.samples import split_samples
from tests.offline.pipeline import CountingModel, Pipeline
from tests.synthetic import job_config, synthetic

PROMPTS = [Prompt((("user", f"question {number}"),), 64) for number in range(100)]
UNKNOWN = {"liber": CostEstimate(100, 0, 100, 100, 1000, 6400, 0.0, None)}


@pytest.fixture
def model(installed: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CountingModel:
    timed = CountingModel(tmp_path / "timed")
    monkeypatch.setattr("offline.jobs.rates.open_backend", lambda config, workdir, precision: timed)
    return timed


def test_measuring_is_no_run(installed: Pipeline, model: CountingModel) -> None:
    job, before = installed.job, len(installed.runs())
    durations = measure(job, Work(UNKNOWN, PROMPTS, [f"text {number}" for number in range(640)]))
    assert durations.prompts is not None
    assert (durations.by_texts, durations.by_prompts.partition(";")[0]) == ("64 were timed", "8 were timed")
    assert len(model.paid()) == 1 + 8
    assert model.paid()[1:] == [f"question {at * 100 // 8}" for at in range(8)], (
        "all kinds of prompts have a part in it"
    )
    assert (len(installed.runs()), open_accounts(job.llm)) == (before, {})


def test_what_was_asked_before_tells_the_time_and_is_not_asked(installed: Pipeline, model: CountingModel) -> None:
    asked = {"liber": CostEstimate(100, 0, 100, 100, 1000, 6400, 0.0, 1200.0)}
    _, line = measure(installed.job, Work(asked, PROMPTS, [])).lines(Work(asked, PROMPTS, []))
    assert line.startswith("prompts to ask: 100, ")
    assert line.endswith("about 20 min (at the speed of earlier runs)")
    assert model.paid() == []


def test_few_texts_are_timed_as_few(installed: Pipeline) -> None:
    work = Work({}, [], ["one", "two"])
    texts, prompts = measure(installed.job, work).lines(work)
    assert texts.endswith("(2 were timed)")
    assert prompts == "prompts to ask: none that is not stored already"


def test_a_server_is_not_asked(installed: Pipeline, model: CountingModel) -> None:
    served = {"backend": "openai", "base_url": "http://127.0.0.1:1", "model": "m"}
    work = Work(UNKNOWN, PROMPTS, [])
    _, line = measure(installed.with_config(llm=served).job, work).lines(work)
    assert line.endswith("for an unknown time (no run has asked m yet)")
    assert model.paid() == []


def test_without_a_model_the_time_is_unknown_and_says_why(installed: Pipeline, model: CountingModel) -> None:
    model.fails = UnusableBackendError("no weights here")
    work = Work(UNKNOWN, PROMPTS, [])
    _, line = measure(installed.job, work).lines(work)
    assert "for an unknown time (no weights here)" in line


def test_the_time_of_a_training_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = synthetic(tmp_path, users=20, items=15, events=14)
    config = job_config(tmp_path, epochs=3, batch_size=50, seeds=(1, 2))
    monkeypatch.setattr("offline.training.fit.seconds_per_batch", lambda *_: 5.0)
    samples = len(split_samples(config.samples, few.log).rows["train"])
    line = line_of_training(config, few.catalogue, few.log)
    minutes = -(-samples // 50) * 3 * 2 * 5 / 60
    assert line == (
        f"training: {samples:,} samples, at most 3 epochs, about {minutes:.0f} min (10 batches were timed, without "
        "knowledge)"
    )
    monkeypatch.undo()
    assert line_of_training(config, few.catalogue, few.log).startswith(f"training: {samples:,} samples")
    auto = config.model_copy(update={"training": config.training.model_copy(update={"served": "auto"})})
    assert line_of_training(auto, few.catalogue, few.log) == (
        f"training: {samples:,} samples, at most 3 epochs, of the best of boosted trees, DCNv2, "
        f"DIN (target attention), whole histories, which are compared on {samples:,} first"
    )
    whole = job_config(tmp_path, served="lifelong", epochs=3)
    assert line_of_training(whole, few.catalogue, few.log).endswith("at most 3 epochs")
