"""Metrics for the text-file collector: of every job of a configuration, whatever its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from offline.jobs.ledger import RunRecord
from offline.jobs.prometheus import write
from offline.jobs.runs import LockedError, Run, exclusive
from offline.llm.protocol import UnusableBackendError
from tests.offline.pipeline import Pipeline

LINE: Mapping[str, Any] = {
    "run": "1",
    "job": "refresh",
    "config": "small",
    "status": "done",
    "finished_at": "2026-11-20T06:00:00+00:00",
    "seconds": 12.5,
    "stages": {"data": 1.0, "train": 11.0},
    "llm": {"model_id": "tiny", "calls": 7, "cost": 0.25, "prompt_tokens": 100},
    "bad_answers": {"echo": 2},
    "producers": {"liber": {"state": "made", "absent": 0, "users": 24}},
    "records": {"user/liber": {"written": 3, "unchanged": 4, "bytes": 500}},
}


def run_with(**changes: Any) -> RunRecord:
    return RunRecord.parse({**LINE, **changes})


def test_a_line_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    producers = {"liber": {**LINE["producers"]["liber"], "mood": "good"}}
    assert run_with(mood="good", producers=producers) == run_with()


BASE = run_with()


def samples(path: Path) -> dict[tuple[str, ...], float]:
    """Values by (metric name, label values sorted by label name)."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }


def test_every_figure_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "collector" / "lorank.prom"
    write(path, [], BASE)
    values = samples(path)
    assert values["lorank_job_status", "small", "refresh", "done"] == 1
    assert values["lorank_job_status", "small", "refresh", "failed"] == 0
    assert values["lorank_job_seconds", "small", "refresh"] == 12.5
    assert values["lorank_job_stage_seconds", "small", "refresh", "train"] == 11.0
    assert values["lorank_job_records_written", "small", "refresh", "user/liber"] == 3
    assert values["lorank_job_bytes_written", "small", "refresh", "user/liber"] == 500
    assert values["lorank_llm_cost", "small", "refresh"] == 0.25
    assert values["lorank_llm_bad_answers", "small", "refresh", "echo"] == 2
    assert values["lorank_producer_complete", "small", "liber"] == 1
    assert values["lorank_producer_owners", "small", "liber", "users"] == 24
    assert values["lorank_job_success_timestamp_seconds", "small", "refresh"] == 1795154400
    assert [file.name for file in path.parent.iterdir()] == ["lorank.prom"]


def test_a_bad_end_keeps_the_time_of_the_last_good_one(tmp_path: Path) -> None:
    producers = {"liber": {"state": "partial", "absent": 5, "users": 24}}
    later = run_with(run="2", status="partial", finished_at="2026-11-20T07:00:00+00:00", producers=producers)
    write(tmp_path / "x.prom", [BASE], later)
    values = samples(tmp_path / "x.prom")
    assert values["lorank_job_status", "small", "refresh", "partial"] == 1
    assert values["lorank_job_status", "small", "refresh", "done"] == 0
    assert values["lorank_job_finished_timestamp_seconds", "small", "refresh"] == 1795158000
    assert values["lorank_job_useful_timestamp_seconds", "small", "refresh"] == 1795158000
    assert values["lorank_job_success_timestamp_seconds", "small", "refresh"] == 1795154400
    assert values["lorank_producer_texts_absent", "small", "liber"] == 5
    assert values["lorank_producer_complete", "small", "liber"] == 0
    assert values["lorank_producer_success_timestamp_seconds", "small", "liber"] == 1795154400


def test_other_jobs_of_the_configuration_stay(tmp_path: Path) -> None:
    other = run_with(run="2", job="train", records={}, llm={}, bad_answers={}, producers={})
    write(tmp_path / "x.prom", [BASE], other)
    values = samples(tmp_path / "x.prom")
    assert values["lorank_job_status", "small", "refresh", "done"] == 1
    assert values["lorank_job_status", "small", "train", "done"] == 1
    assert values["lorank_llm_calls", "small", "refresh"] == 7


def test_locked_failed_and_partial_runs_write_it_too(installed: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "lorank.prom"
    installed.close_partition_of("u3")
    installed.model.fails = UnusableBackendError("nobody listens")
    installed.refresh(metrics=path)
    partial = samples(path)
    assert partial["lorank_job_status", "small", "refresh", "partial"] == 1
    assert partial["lorank_llm_absent", "small", "refresh"] == 1
    with exclusive(installed.config.workdir, "train"), pytest.raises(LockedError):
        installed.refresh(metrics=path)
    locked = samples(path)
    assert locked["lorank_job_status", "small", "refresh", "locked"] == 1
    assert locked["lorank_job_useful_timestamp_seconds", "small", "refresh"] >= 1
    assert locked["lorank_llm_absent", "small", "refresh"] == 1  # of the last run that did anything
    run = Run(type(installed.job)(installed.config, installed.folder, metrics=path), "refresh")
    with pytest.raises(ValueError, match="no good"), run.working():
        raise ValueError("no good")
    assert samples(path)["lorank_job_status", "small", "refresh", "failed"] == 1


def test_a_file_that_cannot_be_written_does_not_spoil_the_run(
    installed: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert installed.refresh(metrics=tmp_path / "file" / "x.prom")["status"] == "done"
    assert "metrics" in capsys.readouterr().err
