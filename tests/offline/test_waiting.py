"""Producers that cannot begin, or that miss texts: what they made before stays, and the run says what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from offline import refresh as pipeline
from offline.data.files import read_arrays, write_arrays
from offline.data.log import InteractionLog
from offline.jobs import refusals
from offline.jobs.runs import Run
from offline.knowledge import needs
from offline.knowledge import run as producers
from offline.knowledge.errors import TooFewError
from offline.knowledge.inputs import Producer, ProducerInputs, space
from offline.knowledge.needs import Supply
from offline.knowledge.run import load_knowledge
from offline.knowledge.vectors import ItemVectors, Produced, UserVectors
from offline.llm.protocol import Completion, PermanentError, Prompt, TransientError, UnusableBackendError
from offline.training.report import TrainingReport
from tests.offline.pipeline import LATER_MS, CountingModel, Pipeline, kinds
from tests.synthetic import PARTITION_SIZE, SCHEMA


class ShiftsFail(CountingModel):
    """Answers no question about a shift while ``failing``."""

    failing = True

    async def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        if self.failing and kinds(prompt.messages[-1][1] for prompt in prompts)["shift"]:
            raise PermanentError("no shifts today")
        return await super().complete(prompts)


def marc_in_small(inputs: ProducerInputs) -> Produced:
    """Reads what MARC reads."""
    user, item = inputs.spec("marc", "user"), inputs.spec("marc", "item")
    assert user is not None
    assert item is not None
    versions, known = inputs.texts.versions, inputs.texts.items.known
    vectors = np.ones((len(known), item.dim), np.float32) * known[:, None]
    return Produced(
        UserVectors(
            space(user, "float16", {}), np.ones((len(versions), user.dim), np.float32), versions.start, versions.since
        ),
        ItemVectors.of_texts(space(item, "float16", {}), vectors, known),
    )


def too_little(inputs: ProducerInputs) -> Produced:
    raise TooFewError("64 texts of the training period, there are 12")


def stand_in(patch: pytest.MonkeyPatch, **others: Producer) -> None:
    """Let these producers run in place of those of their names; they need nothing."""
    of_the_house, fault, unmet = producers.producer, needs.shape_fault, Supply.unmet
    patch.setattr(producers, "producer", lambda name: others.get(name) or of_the_house(name))
    patch.setattr(refusals, "shape_fault", lambda name, *of: "" if name in others else fault(name, *of))
    patch.setattr(Supply, "unmet", lambda supply, name: "" if name in others else unmet(supply, name))


def report_of(installation: Pipeline) -> TrainingReport:
    return TrainingReport.load(installation.job.models / "report.json")


def test_a_producer_that_cannot_begin_keeps_what_it_made(installed: Pipeline) -> None:
    """Another prompt makes another space; while its texts cannot be had, the old knowledge is served on."""
    changed = installed.with_config(knowledge={"liber": {"partition_size": PARTITION_SIZE, "summary_tokens": 65}})
    changed.model.fails = UnusableBackendError("nobody listens")
    changed.stream(("newcomer", "i1", 5.0, LATER_MS))
    before = changed.published()
    entry = changed.refresh()
    assert entry["status"] == "partial"
    assert entry["producers"]["liber"]["state"] == "waits"
    assert changed.published() == before
    assert entry["release"] == changed.runs()[0]["release"]


def test_a_producer_that_cannot_begin_keeps_what_it_made_however_often_it_tries(installed: Pipeline) -> None:
    changed = installed.with_config(knowledge={"liber": {"partition_size": PARTITION_SIZE, "summary_tokens": 65}})
    changed.model.fails = UnusableBackendError("nobody listens")
    before = changed.published()
    for number in range(4):
        changed.stream((f"newcomer {number}", "i1", 5.0, LATER_MS))
        entry = changed.refresh()
        assert entry["producers"]["liber"]["state"] == "waits"
        assert entry["release"] == changed.runs()[0]["release"]
    assert changed.published() == before
    changed.model.fails = None
    entry = changed.refresh()
    assert (entry["status"], entry["producers"]["liber"]["state"]) == ("done", "made")
    assert entry["release"] != changed.runs()[0]["release"]


def test_a_producer_that_is_killed_again_and_again_keeps_what_it_made(
    installed: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(inputs: ProducerInputs) -> Produced:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        stand_in(patch, liber=killed)
        for number in range(4):
            installed.stream((f"newcomer {number}", "i1", 5.0, LATER_MS))
            with pytest.raises(KeyboardInterrupt):
                installed.refresh()
    log = InteractionLog.load(installed.job.log)
    assert "liber" in load_knowledge(installed.job.knowledge, installed.config.feature_schema, log).produced


@pytest.mark.parametrize("how", ["torn", "gone", "of the previous form"])
def test_knowledge_that_cannot_be_read_is_made_again_and_nothing_is_asked(installed: Pipeline, how: str) -> None:
    before = installed.published()
    path = installed.job.knowledge / "liber" / "vectors.npz"
    whole = path.read_bytes()
    if how == "torn":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "gone":
        path.unlink()
    else:
        write_arrays(path, **{name: array for name, array in read_arrays(path).items() if name != "document"})
        (path.parent / "texts.json").write_text('{"spaces": [], "texts": {}}')
    entry, paid = installed.paid_by()
    assert (entry["status"], paid, entry["bytes_written"]) == ("done", [], 0)
    assert {name: summary["state"] for name, summary in entry["producers"].items()} == {
        "text": "current",
        "liber": "made",
    }
    assert path.read_bytes() == whole
    assert installed.published() == before
    assert entry["release"] == installed.runs()[0]["release"]


@pytest.mark.parametrize("job", ["refresh", "train"])
def test_a_training_on_partial_knowledge_is_repeated_when_it_is_complete(installed: Pipeline, job: str) -> None:
    installed.close_partition_of("u3")
    installed.model.fails = TransientError("429", retry_after=3600.0)
    assert installed.refresh(retrain=job == "refresh")["status"] == "partial"
    assert report_of(installed).partial == (job == "refresh")
    if job == "train":
        run = Run(replace(installed.job, retrain=True), "train")
        log = InteractionLog.load(installed.job.log)
        with run.working():
            known = load_knowledge(installed.job.knowledge, installed.config.feature_schema, log)
            pipeline.train_models(run, pipeline.data(run)[1], log, known)
        assert report_of(installed).partial
    assert installed.refresh()["status"] == "partial"
    assert report_of(installed).partial  # not yet
    installed.model.fails = None
    assert installed.refresh()["status"] == "done"
    assert not report_of(installed).partial


def test_a_producer_misses_only_texts_that_it_reads(fresh: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ShiftsFail(fresh.folder / "paid.jsonl")
    fresh.model = model
    stand_in(monkeypatch, marc=marc_in_small)
    three = fresh.with_config(feature_schema=SCHEMA.model_dump(mode="json"))
    entry, paid = three.paid_by()
    assert kinds(paid) == {"summary": 48, "item": 20}
    assert (entry["status"], entry["llm"]["absent"]) == ("partial", 24)
    states = {name: (summary["state"], summary["absent"]) for name, summary in entry["producers"].items()}
    assert states == {"text": ("made", 0), "liber": ("waits", 24), "marc": ("made", 0)}
    model.failing = False
    entry, paid = three.paid_by()
    assert (entry["status"], kinds(paid)) == ("done", {"shift": 24})
    states = {name: (summary["state"], summary["absent"]) for name, summary in entry["producers"].items()}
    assert states == {"text": ("current", 0), "liber": ("made", 0), "marc": ("current", 0)}


def test_a_producer_that_waits_for_texts_makes_the_run_partial_in_its_own_words(fresh: Pipeline) -> None:
    fresh.model.fails = UnusableBackendError("nobody listens")
    entry = fresh.refresh()
    reason = "40 texts of the training period are still missing"
    assert entry["producers"]["liber"]["reason"] == reason
    assert entry["reasons"][0] == f"liber waits: {reason}"


def test_a_producer_that_waits_for_the_log_to_grow_leaves_nothing(
    fresh: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stand_in(patch, liber=too_little)
        for _ in range(2):
            entry = fresh.refresh()
            assert (entry["status"], entry["exit_code"], entry["reasons"]) == ("done", 0, [])
            assert entry["producers"]["liber"] == {
                "state": "waits",
                "absent": 0,
                "reason": "liber needs 64 texts of the training period, there are 12",
            }
            assert not report_of(fresh).partial
    without = entry["release"]
    assert without is not None
    entry, paid = fresh.paid_by()
    assert (entry["status"], entry["producers"]["liber"]["state"]) == ("done", "made")
    assert kinds(paid) == {"summary": 48, "shift": 24}
    assert entry["release"] != without


def test_a_producer_that_waits_for_the_log_to_grow_keeps_what_it_made(
    installed: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = installed.with_config(knowledge={"liber": {"partition_size": PARTITION_SIZE, "summary_tokens": 65}})
    before = changed.published()
    stand_in(monkeypatch, liber=too_little)
    entry = changed.refresh()
    assert (entry["status"], entry["producers"]["liber"]["state"]) == ("done", "waits")
    assert entry["producers"]["liber"]["users"] == 24
    assert entry["release"] == changed.runs()[0]["release"]
    assert changed.published() == before


def test_without_any_knowledge_a_model_is_trained_and_published(
    fresh: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, text=too_little, liber=too_little)
    entry = fresh.refresh()
    assert (entry["status"], {summary["state"] for summary in entry["producers"].values()}) == ("done", {"waits"})
    assert entry["release"] is not None
    assert entry["records"]["user histories"]["written"] == 24
    assert fresh.published() == {}
    entry = fresh.refresh()
    assert (entry["status"], entry["bytes_written"]) == ("done", 0)
