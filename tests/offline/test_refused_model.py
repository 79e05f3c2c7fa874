"""A model that the gate refuses, from the run that trained it to the one that accepts it: what runs, ledger, status,
dry run and metrics say of it. Whether it is worse is asked in publish/test_comparison.py; here it is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from offline.data.catalogue import DataError
from offline.jobs.dry_run import dry_run
from offline.jobs.status import status_of
from offline.jobs.verify import verify
from offline.knowledge.needs import Supply
from offline.publish.comparison import Comparison
from offline.publish.connection import open_store
from offline.publish.gate import GateError
from offline.publish.release import read_directory, read_manifest
from offline.reranking.ctr import refuse_another_live_model
from offline.training.report import TrainingReport
from tests.offline.jobs.test_one_producer import publish, run_producers
from tests.offline.jobs.test_prometheus import samples
from tests.offline.pipeline import LATER_MS, Pipeline, write_csv

REASON = "AUC -0.1000 [-0.1200, -0.0800] against the live model"


@pytest.fixture
def refusing(installed: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """An installation after the run whose new model was refused, in which a new user rated a new item."""
    worse = Comparison((REASON,), (REASON,))
    monkeypatch.setattr("offline.publish.comparison.compare", lambda *_: worse)
    installed.stream(("newcomer", "new", 5.0, LATER_MS))
    installed.refresh(retrain=True, metrics=installed.folder / "x.prom")
    return installed


def first_release(installation: Pipeline) -> str:
    release: str = installation.runs()[0]["release"]
    return release


def test_the_run_is_partial_and_publishes_all_but_the_model(
    refusing: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    first, entry = first_release(refusing), refusing.runs()[-1]
    assert (entry["status"], entry["exit_code"], entry["release"]) == ("partial", 3, first)
    assert entry["refused"] not in ("", first, None)
    (reason,) = entry["reasons"]
    assert reason == (
        f"model_refused: {entry['refused']} stays off and {first} stays live: {REASON} "
        "(`publish --accept` lets it go live all the same)"
    )
    assert entry["records"]["user profiles"]["written"] == 1
    assert entry["records"]["user histories"]["written"] == 1
    assert entry["records"]["item features"]["written"] == 1
    with open_store(refusing.job.data_dir, "small") as store:
        assert read_directory(store, read_manifest(store, first))[-1] == "new"


def test_the_next_run_trains_and_writes_nothing_and_remembers(
    refusing: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = refusing.runs()[-1]
    monkeypatch.setattr(sys.modules["offline.training.run"], "train", lambda *_: pytest.fail("trained for nothing"))
    entry = refusing.refresh()
    assert (entry["status"], entry["release"], entry["refused"]) == ("partial", before["release"], before["refused"])
    assert entry["reasons"] == before["reasons"]
    assert entry["bytes_written"] == 0
    refusing.stream(("newcomer", "i1", 5.0, LATER_MS + 1))
    entry = refusing.refresh()
    assert (entry["status"], entry["records"]["user histories"]["written"]) == ("partial", 1)


def test_a_run_that_is_stopped_before_the_note_asks_again(refusing: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    client = refusing.redis
    client.delete(f"{refusing.prefix}:refused")
    client.close()
    assert refusing.refresh()["reasons"] == refusing.runs()[1]["reasons"]


def test_status_and_dry_run_tell(refusing: Pipeline) -> None:
    refused = refusing.runs()[-1]["refused"]
    with open_store(refusing.job.data_dir, "small") as store:
        status = status_of(refusing.job, store)
    document = json.loads(json.dumps(status.document()))
    assert (document["refused"]["release"], document["refused"]["reasons"]) == (refused, [REASON])
    (line,) = (line for line in status.lines() if line.startswith("refused"))
    assert f"model_refused: {refused} stays off" in line
    planned = dry_run(refusing.job)
    assert planned.summary()["refused"] == refused
    assert any("`publish --accept`" in line for line in planned.lines())


def test_jobs_that_need_the_last_model_live_name_the_refusal(refusing: Pipeline) -> None:
    with pytest.raises(DataError, match=f"not the model that was trained last: model_refused: .*{REASON[:10]}"):
        verify(refusing.job, None, 1)
    report = TrainingReport.load(refusing.job.models / "report.json")
    with pytest.raises(DataError, match="`publish --accept` after a refusal"):
        refuse_another_live_model(refusing.job, report)


def test_the_metrics_tell_until_another_model_is_live(refusing: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    path: Path = refusing.folder / "x.prom"
    assert samples(path)["lorank_model_refused", "small"] == 1
    assert samples(path)["lorank_job_status", "small", "refresh", "partial"] == 1
    monkeypatch.setattr("offline.publish.comparison.compare", lambda *_: Comparison())
    refusing.stream(("newcomer", "i2", 5.0, LATER_MS + 2))
    tolerant = refusing.with_config(publish={"min_item_coverage": 0.9})  # nothing describes the new item
    entry = tolerant.refresh(retrain=True, metrics=path)
    assert (entry["status"], entry["refused"]) == ("done", "")
    assert samples(path)["lorank_model_refused", "small"] == 0


def test_a_release_without_a_refusal_has_none_to_tell(installed: Pipeline) -> None:
    entry: dict[str, Any] = installed.refresh(metrics=installed.folder / "x.prom")
    assert (entry["status"], entry["refused"]) == ("done", "")
    assert samples(installed.folder / "x.prom")["lorank_model_refused", "small"] == 0
    with open_store(installed.job.data_dir, "small") as store:
        status = status_of(installed.job, store)
    assert status.document()["refused"] is None
    assert dry_run(installed.job).summary()["refused"] is None


@pytest.fixture
def small_shop(fresh: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """An installation after the first refresh, in which three items are described."""
    monkeypatch.setattr(Supply, "unmet", lambda *_: "")
    describe(fresh, 3)
    shop = fresh.with_config(publish={"min_item_coverage": 0.0})
    shop.refresh()
    return shop


def describe(installation: Pipeline, count: int) -> None:
    """Let the file of items describe so many of them."""
    path = installation.folder / "items.csv"
    described = [{"title": f"Title {at}", "year": "1999", "genres": "Drama"} for at in range(count)]
    write_csv(
        path, ("id", "title", "year", "genres"), ((f"i{at}", *film.values()) for at, film in enumerate(described))
    )


def texts_of_items(installation: Pipeline, space: str) -> dict[str, bytes]:
    return {key: blob for key, blob in installation.published().items() if key.endswith(space)}


def test_a_refused_model_leaves_the_space_of_a_small_catalogue_to_the_live_one(
    small_shop: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More texts are a space fitted anew. While its model stays off, what is new is known in the live one's space."""
    first = first_release(small_shop)
    with open_store(small_shop.job.data_dir, "small") as store:
        space = read_manifest(store, first).spaces["item/text"]
    before = texts_of_items(small_shop, space)
    assert len(before) == 3
    monkeypatch.setattr("offline.publish.comparison.compare", lambda *_: Comparison((REASON,), (REASON,)))
    describe(small_shop, 12)
    entry = small_shop.refresh()
    assert (entry["status"], entry["release"]) == ("partial", first)
    assert entry["records"][f"item/text:{space}"]["written"] == 9
    after = texts_of_items(small_shop, space)
    assert len(after) == 12
    assert {key: after[key] for key in before} == before
    assert len([key for key in small_shop.published() if "{i:" in key]) == 24, "the new space is there to be accepted"
    describe(small_shop, 13)
    run_producers(small_shop, "text")
    assert publish(small_shop, "text")["status"] == "done"
    assert len(texts_of_items(small_shop, space)) == 13
    assert small_shop.refresh()["release"] == first
    assert small_shop.refresh()["bytes_written"] == 0
    former = small_shop.job.knowledge / "text" / "former"
    assert former.is_dir()
    monkeypatch.setattr("offline.publish.comparison.compare", lambda *_: Comparison())
    small_shop.stream(("newcomer", "i1", 5.0, LATER_MS))
    entry = small_shop.refresh(retrain=True)
    assert (entry["status"], entry["release"] == first, former.exists()) == ("done", False, False)


def test_so_does_a_release_that_is_incomplete(small_shop: Pipeline) -> None:
    with open_store(small_shop.job.data_dir, "small") as store:
        space = read_manifest(store, first_release(small_shop)).spaces["item/text"]
    describe(small_shop, 12)
    with pytest.raises(GateError, match="only 12 of 20 items have knowledge item/text"):
        small_shop.with_config(publish={"min_item_coverage": 1.0}).refresh()
    assert len(texts_of_items(small_shop, space)) == 12
