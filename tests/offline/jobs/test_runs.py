"""The ledger of runs: one line per run, also of those that were killed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from offline.jobs.lock import LockedError, exclusive
from offline.jobs.runs import CURRENT, LEDGER, Run, append, lost_run, read_runs
from offline.jobs.steps import Job
from offline.llm.ledger import Ledger
from tests.synthetic import job_config


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(job_config(tmp_path / "work"), tmp_path / "data")


def test_a_run_is_one_line(job: Job) -> None:
    for name in ("refresh", "train"):
        run = Run(job, name)
        with run.working(), run.stage("a stage"):
            pass
    lines = (job.config.workdir / LEDGER).read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert [(one["job"], one["status"], one["exit_code"]) for one in entries] == [
        ("refresh", "done", 0),
        ("train", "done", 0),
    ]
    assert len({one["run"] for one in entries}) == 2
    assert list(entries[0]["stages"]) == ["a stage"]
    assert not (job.config.workdir / CURRENT).exists()
    assert read_runs(job.config.workdir) == entries


def test_what_is_left_makes_it_partial(job: Job) -> None:
    run = Run(job, "refresh")
    with run.working():
        run.left("texts")
        run.left("texts")
    assert run.entry()["status"] == "partial"
    assert run.entry()["reasons"] == ["texts"]
    assert run.entry()["exit_code"] == 3


def test_interrupted_and_failed_runs_say_so(job: Job) -> None:
    for error in (KeyboardInterrupt(), ValueError("no good")):
        with pytest.raises(type(error)), Run(job, "refresh").working():
            raise error
    assert [one["status"] for one in read_runs(job.config.workdir)] == ["interrupted", "failed"]
    assert read_runs(job.config.workdir)[1]["reasons"] == ["ValueError: no good"]


def test_a_locked_run_leaves_no_line(job: Job) -> None:
    run = Run(job, "refresh")
    with exclusive(job.config.workdir, "train"), pytest.raises(LockedError), run.working():
        pass
    assert (run.entry()["status"], run.entry()["exit_code"]) == ("locked", 4)
    assert read_runs(job.config.workdir) == []


def test_the_next_run_writes_the_line_of_a_killed_one(job: Job) -> None:
    killed = Run(job, "refresh")
    with exclusive(job.config.workdir, "refresh"):  # as far as a run gets that dies after a stage
        with killed.stage("data"):
            pass
        killed.asked(Ledger("refresh", "a model", run_id="1"), {}, {})
    lost = lost_run(job)
    assert lost is not None
    assert lost["status"] == "killed"
    with Run(job, "refresh").working():
        pass
    first, second = read_runs(job.config.workdir)
    assert (first["run"], first["status"], list(first["stages"])) == (killed.id, "killed", ["data"])
    assert second["status"] == "done"
    assert lost_run(job) is None


def test_a_run_killed_after_its_line_is_not_written_twice(job: Job) -> None:
    run = Run(job, "refresh")
    with run.working():
        pass
    run.save()  # killed between the line and the removal of its file
    with Run(job, "refresh").working():
        pass
    assert [one["status"] for one in read_runs(job.config.workdir)] == ["done", "done"]


def test_a_damaged_file_of_a_killed_run_stops_nobody(job: Job) -> None:
    job.config.workdir.mkdir()
    (job.config.workdir / CURRENT).write_text("{")
    with Run(job, "refresh").working():
        pass
    assert [one["status"] for one in read_runs(job.config.workdir)] == ["done"]


def test_torn_lines_are_passed_over_and_spoil_no_other(tmp_path: Path) -> None:
    path = tmp_path / LEDGER
    path.write_bytes(b'{"run": "0", "job": "refresh", "status": "done"}\n{"run": "1", "jo')
    append(tmp_path, {"run": "2", "job": "refresh", "status": "done", "bytes_written": 0, "llm": {}})
    path.write_text(path.read_text() + "[1]\n7\n")
    assert [one["run"] for one in read_runs(tmp_path)] == ["0", "2"]


def test_totals_go_on_from_run_to_run(job: Job) -> None:
    for cost in (0.5, 0.25):
        run = Run(job, "refresh")
        with run.working():
            ledger = Ledger("refresh", "a model", 1e6, 0.0, calls=2, prompt_tokens=1)
            ledger.price_prompt_per_million = cost * 1e6
            run.asked(ledger, {}, {})
        assert run.entry() == read_runs(job.config.workdir)[-1]
    assert read_runs(job.config.workdir)[-1]["totals"] == {
        "runs": 2,
        "bytes_written": 0,
        "calls": 4,
        "paid": 0,
        "failures": 0,
        "prompt_tokens": 2,
        "completion_tokens": 0,
        "cost": 0.75,
    }


def test_only_the_end_of_a_long_ledger_is_read(tmp_path: Path) -> None:
    path = tmp_path / LEDGER
    line = json.dumps({"run": "1", "job": "refresh", "status": "done", "filler": "x" * 1000}) + "\n"
    path.write_text(line * 4000)
    assert 1800 < len(read_runs(tmp_path)) < 2100


@pytest.mark.parametrize("content", ["[]", "{}", '{"llm": 3}', "not JSON"])
def test_a_damaged_line_of_a_lost_run_stops_no_later_run(job: Job, content: str) -> None:
    job.config.workdir.mkdir(parents=True, exist_ok=True)
    (job.config.workdir / CURRENT).write_text(content)
    assert lost_run(job) is None
    with Run(job, "refresh").working():
        pass
    assert [one["status"] for one in read_runs(job.config.workdir)] == ["done"]
