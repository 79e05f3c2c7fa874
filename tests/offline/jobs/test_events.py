"""Arrivals: looked for without a trace, and noted when it is taken over."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace

import pytest

from offline import refresh as pipeline
from offline.data.dataset import open_dataset
from offline.data.log import InteractionLog
from offline.jobs.events import Arrivals, Arrived, look_for_events, recent
from offline.jobs.runs import Run
from offline.publish.connection import open_store
from tests.offline.pipeline import EARLIER_MS, LATER_MS, Pipeline


def look(installation: Pipeline) -> Arrived:
    source = open_dataset(installation.config.data, installation.job.raw)
    with open_store(installation.job.data_dir, "small") as store:
        return look_for_events(installation.job, source, source.catalogue(), store)


def take_over(installation: Pipeline) -> None:
    run = Run(installation.job, "events")
    with run.working(), open_store(installation.job.data_dir, "small") as store:
        source, catalogue = pipeline.data(run)
        pipeline.events(run, source, catalogue, store)


def test_looking_saves_nothing(installed: Pipeline) -> None:
    installed.stream(("u1", "i1", 5.0, LATER_MS), ("u1", "i1", 5.0, LATER_MS), ("u2", "i1", 99.0, LATER_MS))
    before = {path: path.read_bytes() for path in installed.job.log.iterdir()}
    arrived = look(installed)
    assert (arrived.added, arrived.left_out, len(arrived.log)) == (1, {"of a value out of range": 1}, 289)
    assert arrived.summary == "289 interactions, 1 of them new, 1 left out (1 of a value out of range)"
    assert {path: path.read_bytes() for path in installed.job.log.iterdir()} == before
    assert not installed.job.arrivals.exists()


def test_what_was_taken_over_does_not_arrive_again(installed: Pipeline) -> None:
    installed.stream(("u1", "i1", 5.0, LATER_MS))
    take_over(installed)
    arrived = look(installed)
    assert (arrived.added, len(arrived.log)) == (0, 289)
    ((at, rows, items),) = Arrivals(installed.job.arrivals).all()
    assert (rows, items) == (288, 20)
    assert at > LATER_MS
    take_over(installed)
    assert len(Arrivals(installed.job.arrivals).all()) == 1


def test_refused_entries_are_not_read_for_ever(installed: Pipeline) -> None:
    installed.stream(("u2", "i1", 99.0, LATER_MS))
    take_over(installed)
    assert look(installed).left_out.total() == 0
    assert not installed.job.arrivals.exists()  # the log did not grow


def test_a_log_that_is_made_anew_has_no_arrivals(installed: Pipeline) -> None:
    installed.stream(("u1", "i1", 5.0, LATER_MS))
    take_over(installed)
    shutil.rmtree(installed.job.log)
    assert look(installed).before is None
    take_over(installed)
    assert not installed.job.arrivals.exists()


@pytest.mark.parametrize("column", ["users", "items"])
def test_new_users_and_items_without_interactions_arrive(installed: Pipeline, column: str) -> None:
    copy = installed.copy_of_the_files()
    line = {"users": "u-new,30,farmer\n", "items": "i-new,A Film,1999,Drama\n"}[column]
    with (copy.folder / f"{column}.csv").open("a") as file:
        file.write(line)
    arrived = look(copy)
    assert len(arrived.log.user_ids) + len(arrived.log.item_ids) == 45


def test_an_item_that_came_without_interactions_is_still_new_when_others_have_come(installed: Pipeline) -> None:
    copy = installed.copy_of_the_files()
    since = round(time.time() * 1000)
    with (copy.folder / "items.csv").open("a") as file:
        file.write("i-new,A Film,1999,Drama\n")
    take_over(copy)
    copy.stream(("u1", "i1", 5.0, EARLIER_MS))
    take_over(copy)
    assert [mark[1:] for mark in Arrivals(copy.job.arrivals).all()] == [[288, 20], [288, 21]]
    log = InteractionLog.load(copy.job.log)
    assert set(recent(replace(copy.job, since_ms=since), log).item_ids(log)) == {"i-new", "i1"}


def test_a_mark_counts_for_its_own_stream_alone(installed: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the way to another prefix, while services of either still write."""
    former, latter = installed, replace(installed, prefix=f"{installed.prefix}-moved")

    def refresh(of: Pipeline) -> list[str]:
        monkeypatch.setenv("LORANK_KEY_PREFIX", of.prefix)
        of.refresh()
        log = InteractionLog.load(of.job.log)
        return [log.user_ids[user] for user in log.user[288:]]

    former.stream(("early", "i1", 5.0, LATER_MS))
    assert refresh(former) == ["early"]
    assert refresh(latter) == ["early"]
    latter.stream(("moved", "i1", 5.0, LATER_MS))
    former.stream(("late", "i1", 5.0, LATER_MS))
    assert refresh(former) == ["early", "late"]
    assert refresh(latter) == ["early", "late", "moved"]
    assert refresh(former) == ["early", "late", "moved"]
    former.stream(("last", "i1", 5.0, LATER_MS))
    assert refresh(latter) == ["early", "late", "moved"]
    assert refresh(former) == ["early", "late", "moved", "last"]
