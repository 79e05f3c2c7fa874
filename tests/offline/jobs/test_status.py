"""Status: what is live, what each producer holds, and the last runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from offline.jobs import one_producer
from offline.jobs.runs import Run, exclusive
from offline.jobs.status import Status, status_of
from offline.llm.protocol import UnusableBackendError
from offline.publish.connection import open_store
from tests.offline.pipeline import Pipeline


def look(installation: Pipeline) -> Status:
    with open_store(installation.job.data_dir, "small") as store:
        return status_of(installation.job, store)


def test_a_fresh_installation_has_nothing(fresh: Pipeline) -> None:
    status = look(fresh)
    assert status.live is None
    assert status.runs == []
    assert {producer["state"] for producer in status.producers.values()} == {"absent"}
    text = "\n".join(status.lines())
    assert "live       nothing" in text
    assert "liber: not complete; nothing yet" in text
    assert not fresh.config.workdir.exists()


def test_a_finished_one_is_live_complete_and_fresh(installed: Pipeline) -> None:
    status = look(installed)
    assert status.live == installed.runs()[0]["release"]
    (space,) = status.producers["liber"]["spaces"]
    assert (space["key"], space["served"], space["held"]) == ("user/liber", True, False)
    assert space["freshness"] == {"fresh": 24, "stale": 0, "missing": 0}
    assert status.producers["liber"]["users"] == 24
    text = "\n".join(status.lines())
    assert f"* {status.live}" in text
    assert f"user/liber {space['fingerprint']} 3 x 6 float16, served; sample: 24 fresh" in text
    assert "refresh: done after" in text
    assert "72 calls, 0 from cache" in text
    json.dumps(status.document())


def test_missing_records_held_producers_and_partial_runs_show(installed: Pipeline) -> None:
    installed.close_partition_of("u3")
    installed.refresh()
    run = Run(installed.job, "rollback")
    with run.working(), open_store(installed.job.data_dir, "small") as store:
        one_producer.roll_back_one(run, store, "liber")
    client = installed.redis
    keys: Any = client.keys(f"{installed.prefix}:{{u:u1*:k:*")
    client.delete(*keys)
    client.close()
    installed.close_partition_of("u4")
    installed.model.fails = UnusableBackendError("nobody listens")
    installed.refresh()
    status = look(installed)
    (space,) = status.producers["liber"]["spaces"]
    assert space["held"]
    assert space["freshness"]["missing"] == len(keys)
    assert status.runs[-1].status == "partial"
    text = "\n".join(status.lines())
    assert ", held; sample:" in text
    assert "nobody listens" in text


@pytest.mark.parametrize("at_work", [True, False])
def test_a_run_without_an_end_is_at_work_or_was_killed(installed: Pipeline, at_work: bool) -> None:
    with exclusive(installed.config.workdir, "refresh"):
        Run(installed.job, "refresh").save()
        if at_work:
            status = look(installed)
    if not at_work:
        status = look(installed)
    assert status.runs[-1].status == ("running" if at_work else "killed")
    assert (status.at_work is not None) == at_work
    assert len(installed.runs()) == 1, "looking writes nothing"
