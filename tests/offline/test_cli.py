"""``python -m offline`` at the edges: missing and damaged state end in one clear line, never in a traceback."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, clean_environment

CONFIG = (ROOT / "configs" / "ml-100k.toml").read_text()


def offline(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    config = folder / "config.toml"
    config.write_text(CONFIG.replace('workdir = "var/ml-100k"', f'workdir = "{folder / "work"}"'))
    command = [sys.executable, "-m", "offline", *arguments, "--config", str(config), "--data-dir", str(folder / "data")]
    variables = {**clean_environment(), **environment}
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)


def assert_one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 1, result.stdout + result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize(
    "job", [["train"], ["publish"], ["report"], ["verify"], ["export-answers", "answers.jsonl.gz"]]
)
def test_a_job_without_what_it_needs_says_what_to_run_first(tmp_path: Path, job: list[str]) -> None:
    assert_one_line(offline(tmp_path, *job), "run `refresh`" if job != ["verify"] else "log.npz")
    assert not (ROOT / "answers.jsonl.gz").exists()


@pytest.mark.parametrize("name", ["log.npz", "stages.json"])
@pytest.mark.parametrize("content", [b"", b"not what it was", b"PK\x03\x04 cut"])
def test_damaged_state_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / name).write_bytes(content)
    assert_one_line(offline(tmp_path, "status" if name == "stages.json" else "verify"), name, "cannot be read")


@pytest.mark.parametrize("url", ["redis:x", "http://x", "redis://h:abc"])
def test_a_malformed_redis_url_is_one_line(tmp_path: Path, url: str) -> None:
    assert_one_line(offline(tmp_path, "status", LORANK_REDIS_URL=url), "LORANK_REDIS_URL")


def test_a_key_prefix_that_the_service_would_refuse_is_refused(tmp_path: Path) -> None:
    assert_one_line(offline(tmp_path, "status", LORANK_KEY_PREFIX="a b{}"), "LORANK_KEY_PREFIX")


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    result = offline(tmp_path, "status", LORANK_REDIS_URL="redis://:sEcReT@127.0.0.1:1/0")
    assert_one_line(result, "does not answer", "***")
    assert "sEcReT" not in result.stdout + result.stderr


def test_two_jobs_in_one_folder_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with (tmp_path / "work" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert_one_line(offline(tmp_path, "refresh"), "another job is at work")
