"""Each producer runs, is published and is rolled back alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from offline import refresh as pipeline
from offline.data.catalogue import DataError
from offline.data.log import InteractionLog
from offline.jobs import one_producer
from offline.jobs.runs import Run
from offline.knowledge.run import load_knowledge
from offline.publish.connection import Store, open_store
from offline.publish.gate import GateError
from offline.publish.release import SwitchError
from tests.offline.pipeline import LATER_MS, Pipeline, kinds


def do(installation: Pipeline, work: Callable[[Run, Store], object]) -> dict[str, object]:
    run = Run(installation.job, "alone")
    with run.working(), open_store(installation.job.data_dir, "small") as store:
        work(run, store)
    return run.record.document()


def run_producers(installation: Pipeline, *names: str) -> dict[str, object]:
    def work(run: Run, store: Store) -> None:
        source, catalogue = pipeline.data(run)
        pipeline.make_knowledge(run, source, catalogue, pipeline.events(run, source, catalogue, store), names)

    return do(installation, work)


def publish(installation: Pipeline, name: str, *, return_to: bool = False) -> dict[str, object]:
    def work(run: Run, store: Store) -> None:
        log = InteractionLog.load(installation.job.log)
        known = load_knowledge(installation.job.knowledge, installation.config.feature_schema, log)
        one_producer.publish_one(run, store, log, known, name, return_to=return_to)

    return do(installation, work)


def test_one_producer_runs_and_is_published_alone(installed: Pipeline) -> None:
    installed.close_partition_of("u3")
    installed.stream(("newcomer", "new-item", 5.0, LATER_MS))
    before = installed.published()
    entry = run_producers(installed, "text")
    assert installed.model.paid()[72:] == []
    assert entry["producers"]["text"]["state"] == "made"  # type: ignore[index]
    assert entry["producers"]["liber"]["state"] == "kept"  # type: ignore[index]
    run_producers(installed, "liber")
    assert kinds(installed.model.paid()[72:]) == {"summary": 1, "shift": 1}
    entry = publish(installed, "text")
    assert installed.published() == before
    entry = publish(installed, "liber")
    assert entry["records"] == {"user/liber": {"written": 1, "unchanged": 23, "bytes": entry["bytes_written"]}}
    assert len({key for key, blob in installed.published().items() if before.get(key) != blob}) == 1


def test_a_rollback_takes_back_the_last_publication_and_holds_it(installed: Pipeline) -> None:
    before = installed.published()
    installed.close_partition_of("u3")
    installed.refresh()
    after = installed.published()
    assert after != before
    entry = do(installed, lambda run, store: one_producer.roll_back_one(run, store, "liber"))
    assert installed.published() == before
    assert entry["release"] == installed.runs()[0]["release"]
    assert entry["records"] == {"restored": {"written": 1, "unchanged": 0, "bytes": entry["bytes_written"]}}
    installed.refresh()
    assert installed.published() == before, "a refresh must not undo what a person did"
    publish(installed, "liber", return_to=True)
    assert installed.published() == after


def test_what_cannot_be_published_or_taken_back_says_why(installed: Pipeline) -> None:
    with pytest.raises(SwitchError, match="no publication of 'liber'"):
        do(installed, lambda run, store: one_producer.roll_back_one(run, store, "liber"))
    changed = installed.with_config(knowledge={"liber": {"partition_size": 5, "summary_tokens": 65}})
    run_producers(changed, "liber")
    with pytest.raises(GateError, match="a new space needs a new model"):
        publish(changed, "liber")
    assert installed.refresh()["status"] == "done"


def test_nothing_made_is_said(installed: Pipeline) -> None:
    for path in (installed.job.knowledge / "liber").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="liber has made nothing yet"):
        publish(installed, "liber")
