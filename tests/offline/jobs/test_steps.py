"""StepCache remember with which inputs they finished."""

from __future__ import annotations

from pathlib import Path

from offline.data.files import write_bytes
from offline.jobs.steps import Job, StepCache
from tests.synthetic import job_config


def test_a_stage_is_current_for_the_inputs_it_finished_with(tmp_path: Path) -> None:
    job = Job(job_config(tmp_path), tmp_path)
    assert not StepCache(job).is_current("train", {"a": 1, "b": 2})
    StepCache(job).finished("train", {"a": 1, "b": 2}, 1.23)
    assert StepCache(job).is_current("train", {"b": 2, "a": 1})
    assert not StepCache(job).is_current("train", {"a": 1})
    assert not StepCache(job).is_current("knowledge", {"a": 1, "b": 2})


def test_what_changed_is_told_by_name(tmp_path: Path) -> None:
    steps = StepCache(Job(job_config(tmp_path), tmp_path))
    assert steps.changed("train", {"a": 1, "b": 2}) == {"a", "b"}
    steps.finished("train", {"a": 1, "b": 2, "gone": 3}, 0.0)
    assert steps.changed("train", {"a": 1, "b": 3, "new": 4}) == {"b", "gone", "new"}
    assert steps.changed("train", {"gone": 3, "b": 2, "a": 1}) == set()


def test_stages_do_not_forget_each_other(tmp_path: Path) -> None:
    job = Job(job_config(tmp_path), tmp_path)
    StepCache(job).finished("knowledge", {"a": 1}, 1.0)
    StepCache(job).finished("train", {"a": 2}, 2.04)
    assert StepCache(job).is_current("knowledge", {"a": 1})
    assert StepCache(job).all()["train"]["seconds"] == 2.0


def test_everything_of_a_job_lies_in_its_workdir(tmp_path: Path) -> None:
    job = Job(job_config(tmp_path / "work"), tmp_path)
    assert {path.parent for path in (job.raw, job.log, job.knowledge, job.llm, job.models)} == {tmp_path / "work"}


def test_a_stage_whose_output_is_gone_is_not_current(tmp_path: Path) -> None:
    job = Job(job_config(tmp_path), tmp_path)
    steps, output = StepCache(job), tmp_path / "made"
    output.touch()
    steps.finished("s", {"a": 1}, 0.0)
    assert steps.is_current("s", {"a": 1}, output)
    output.unlink()
    assert not steps.is_current("s", {"a": 1}, output)


def test_files_can_be_read_by_another_user(tmp_path: Path) -> None:
    write_bytes(tmp_path / "artifact.onnx", b"x")
    assert (tmp_path / "artifact.onnx").stat().st_mode & 0o777 == 0o644
