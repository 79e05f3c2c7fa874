"""The ledger of runs: one line per run, also of those that were killed."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from offline.data.catalogue import DataError, DataLine
from offline.jobs.ledger import CURRENT, LEDGER, RunLedger, RunRecord, RunStatus
from offline.jobs.runs import LockedError, Run, exclusive
from offline.jobs.steps import Job
from offline.llm.account import CACHE_FILE, Account, open_accounts, recorded
from offline.llm.budget import Prices
from offline.llm.cache import ResponseCache
from offline.llm.protocol import Completion
from tests.synthetic import job_config


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(job_config(tmp_path / "work"), tmp_path / "data")


def lines(workdir: Path) -> list[dict[str, Any]]:
    return [run.document() for run in RunLedger(workdir).runs()]


def test_a_run_is_one_line(job: Job) -> None:
    for name in ("refresh", "train"):
        run = Run(job, name)
        with run.working(), run.step("a stage"):
            pass
    entries = [json.loads(line) for line in (job.config.workdir / LEDGER).read_text().splitlines()]
    assert [(entry["job"], entry["status"], entry["exit_code"]) for entry in entries] == [
        ("refresh", "done", 0),
        ("train", "done", 0),
    ]
    assert len({entry["run"] for entry in entries}) == 2
    assert list(entries[0]["stages"]) == ["a stage"]
    assert not (job.config.workdir / CURRENT).exists()
    assert lines(job.config.workdir) == entries


def test_what_is_left_makes_it_partial(job: Job) -> None:
    run = Run(job, "refresh")
    with run.working():
        run.left("texts")
        run.left("texts")
    assert run.record.document()["status"] == "partial"
    assert run.record.document()["reasons"] == ["texts"]
    assert run.record.document()["exit_code"] == 3


def test_interrupted_and_failed_runs_say_so(job: Job) -> None:
    for error in (KeyboardInterrupt(), ValueError("no good")):
        with pytest.raises(type(error)), Run(job, "refresh").working():
            raise error
    assert [line["status"] for line in lines(job.config.workdir)] == ["interrupted", "failed"]
    assert lines(job.config.workdir)[1]["reasons"] == ["ValueError"]  # words of libraries may quote


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DataError("no knowledge yet"), "DataError: no knowledge yet"),
        (DataError(DataLine("a.csv, row 3: 'ada'", "a.csv, row 3")), "DataError: a.csv, row 3"),
        (OSError(28, "No space left on device", "a"), "OSError: [Errno 28] No space left on device: 'a'"),
        (KeyError("ada"), "KeyError"),
        (pl.exceptions.ComputeError("could not parse 'ada'"), "ComputeError"),
    ],
)
def test_the_ledger_has_no_data_that_an_error_quotes(job: Job, error: Exception, reason: str) -> None:
    with pytest.raises(type(error)), Run(job, "refresh").working():
        raise error
    assert lines(job.config.workdir)[0]["reasons"] == [reason]
    run = Run(job, "refresh")
    with run.working():
        run.left(deepcopy(DataLine("the server said: ada", "the server said something")))
    assert run.record.reasons == ["the server said something"]


def test_a_locked_run_leaves_no_line(job: Job) -> None:
    run = Run(job, "refresh")
    with exclusive(job.config.workdir, "train"), pytest.raises(LockedError), run.working():
        pass
    assert (run.record.document()["status"], run.record.document()["exit_code"]) == ("locked", 4)
    assert lines(job.config.workdir) == []


def test_the_next_run_writes_the_line_of_a_killed_one(job: Job) -> None:
    killed = Run(job, "refresh")
    with exclusive(job.config.workdir, "refresh"):  # as far as a run gets that dies after a stage
        with killed.step("data"):
            pass
        killed.asked(Account("a model", run_id="1"), {}, {})
    lost = RunLedger(job.config.workdir).lost()
    assert lost is not None
    assert lost.status is RunStatus.KILLED
    with Run(job, "refresh").working():
        pass
    first, second = lines(job.config.workdir)
    assert (first["run"], first["status"], list(first["stages"])) == (killed.record.run, "killed", ["data"])
    assert second["status"] == "done"
    assert RunLedger(job.config.workdir).lost() is None


def test_a_run_killed_after_its_line_is_not_written_twice(job: Job) -> None:
    run = Run(job, "refresh")
    with run.working():
        pass
    run.save()  # killed between the line and the removal of its file
    with Run(job, "refresh").working():
        pass
    assert [line["status"] for line in lines(job.config.workdir)] == ["done", "done"]


def test_a_damaged_file_of_a_killed_run_stops_nobody(job: Job) -> None:
    job.config.workdir.mkdir()
    (job.config.workdir / CURRENT).write_text("{")
    with Run(job, "refresh").working():
        pass
    assert [line["status"] for line in lines(job.config.workdir)] == ["done"]


def test_torn_lines_are_passed_over_and_spoil_no_other(tmp_path: Path) -> None:
    path = tmp_path / LEDGER
    path.write_bytes(b'{"run": "0", "job": "refresh", "status": "done"}\n{"run": "1", "jo')
    RunLedger(tmp_path).append(RunRecord(run="2", job="refresh", status=RunStatus.DONE))
    path.write_text(path.read_text() + "[1]\n7\n")
    assert [line["run"] for line in lines(tmp_path)] == ["0", "2"]


def test_totals_go_on_from_run_to_run(job: Job) -> None:
    for cost in (0.5, 0.25):
        run = Run(job, "refresh")
        with run.working():
            account = Account("a model", Prices(cost * 1e6), calls=2)
            account.charge([Completion("", 1, 0)])
            run.asked(account, {}, {})
        assert run.record.document() == lines(job.config.workdir)[-1]
    assert lines(job.config.workdir)[-1]["totals"] == {
        "runs": 2,
        "bytes_written": 0,
        "calls": 4,
        "paid": 2,
        "failures": 0,
        "prompt_tokens": 2,
        "completion_tokens": 0,
        "cost": 0.75,
    }


def test_only_the_end_of_a_long_ledger_is_read(tmp_path: Path) -> None:
    path = tmp_path / LEDGER
    line = json.dumps({"run": "1", "job": "refresh", "status": "done", "filler": "x" * 1000}) + "\n"
    path.write_text(line * 4000)
    assert 1800 < len(lines(tmp_path)) < 2100


@pytest.mark.parametrize("content", ["[]", "{}", '{"llm": 3}', "not JSON"])
def test_a_damaged_line_of_a_lost_run_stops_no_later_run(job: Job, content: str) -> None:
    job.config.workdir.mkdir(parents=True, exist_ok=True)
    (job.config.workdir / CURRENT).write_text(content)
    assert RunLedger(job.config.workdir).lost() is None
    with Run(job, "refresh").working():
        pass
    assert [line["status"] for line in lines(job.config.workdir)] == ["done"]


def killed_while_it_asked(job: Job, *, said: bool) -> Account:
    """The remains of a run that died in the middle of asking, before or after it said that it asks."""
    run = Run(job, "refresh")
    account = Account("tiny", Prices(1.0, 2.0))
    run.save()
    with ResponseCache(job.llm / CACHE_FILE) as cache:
        with recorded(cache, account):
            if said:
                run.asked(account, {}, {})
        account.charge([Completion("a", 3, 4)])
        cache.put_many({}, (account.run_id, json.dumps(account.document())))
    return account


@pytest.mark.parametrize("said", [True, False])
def test_a_killed_run_paid_what_its_account_says(job: Job, said: bool) -> None:
    account = killed_while_it_asked(job, said=said)
    lost = RunLedger(job.config.workdir).lost()
    assert lost is not None
    assert lost.llm is not None
    assert lost.llm.document() == account.document()
    for _ in range(2):
        with Run(job, "train").working():
            pass
    assert [(line["job"], line["status"]) for line in lines(job.config.workdir)] == [
        ("refresh", "killed"),
        ("train", "done"),
        ("train", "done"),
    ]
    assert lines(job.config.workdir)[0]["llm"] == account.document()
    assert lines(job.config.workdir)[-1]["totals"]["paid"] == 1
    assert open_accounts(job.llm) == {}


def test_an_account_whose_run_is_forgotten_is_a_line_of_its_own(job: Job) -> None:
    account = killed_while_it_asked(job, said=True)
    (job.config.workdir / CURRENT).write_text("{")
    with Run(job, "train").working():
        pass
    first, second = lines(job.config.workdir)
    assert (first["status"], first["run"], first["llm"]["paid"]) == ("killed", account.run_id, 1)
    assert second["totals"]["paid"] == 1


def test_the_former_ledger_of_the_language_model_is_read(job: Job) -> None:
    job.llm.mkdir(parents=True)
    old = {"run": "knowledge", "model_id": "tiny", "price_prompt_per_million": 0.5, "paid": 3, "seconds": 0.1}
    former = [old, {**old, "run_id": "r1", "paid": 1}, {**old, "run_id": "r1", "paid": 2, "status": "failed"}]
    text = "".join(f"{json.dumps(line)}\n" for line in former)
    (job.llm / LEDGER).write_text(f"[]\n{text}{text[:50]}")
    with Run(job, "refresh").working() as run:
        run.asked(Account("tiny", run_id="r2", paid=5), {}, {})
    assert [account.paid for account in RunLedger(job.config.workdir).accounts()] == [3, 2, 5]


def test_answers_that_cannot_be_read_stop_no_job_that_asks_nothing(job: Job) -> None:
    job.llm.mkdir(parents=True)
    (job.llm / CACHE_FILE).write_text("no database, but long enough to be looked at as one" * 100)
    with Run(job, "train").working():
        pass
    assert [line["status"] for line in lines(job.config.workdir)] == ["done"]


def test_words_of_errors_and_torn_lines_are_cut(tmp_path: Path) -> None:
    """Earlier versions quoted data there."""
    ledger = RunLedger(tmp_path)
    for run, status in (("1", RunStatus.FAILED), ("2", RunStatus.PARTIAL), ("3", RunStatus.DONE)):
        ledger.append(RunRecord(run=run, job="refresh", status=status, reasons=["3 texts: of ada"]))
    torn = '{"run": "4", "reasons": ["of ad'
    with (tmp_path / LEDGER).open("ab") as file:
        file.write(torn.encode())
    assert [failure["reasons"] for failure in ledger.failures()] == [["3 texts: of ada"], ["3 texts: of ada"], [torn]]
    ledger.cut_failures()
    assert [run.reasons for run in ledger.runs()] == [["3 texts"], ["3 texts"], ["3 texts: of ada"]]
    assert ledger.failures() == []
