"""The demo's experiment on real interactions: what was sent is what is analysed, nothing lost and nothing doubled."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import httpx2
import pytest

from models.contract.experiments import read_experiments
from models.contract.ids import NOBODY
from models.valkey.embedded import embedded_redis
from offline.ab.analysis import analyse
from offline.ab.inputs import settings_of
from offline.child import child_python
from offline.config import DEMO_EXPERIMENTS
from offline.demo import running_service
from offline.publish.archive import archive, of_experiment, read_exposures, read_interactions
from research import replay as driver
from tests.conftest import ROOT, Installation, clean_environment

REQUESTS = 120


def last_line(ended: CompletedProcess[str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return document


def replay(installation: Installation) -> CompletedProcess[str]:
    """``python -m research replay`` over the installation, as a process of its own."""
    command = child_python("-m", "research", "replay", "--requests", str(REQUESTS))
    command += ["--config", str(installation.config), "--data-dir", str(installation.data_dir)]
    ended = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended


def test_a_replay_is_reported_request_by_request(installation: Installation, tmp_path: Path) -> None:
    replayed = last_line(replay(installation))
    assert replayed["requests"] == replayed["feedback"] == REQUESTS
    assert replayed["exposures"] == {"added": REQUESTS, "refused": 0, "lost": 0, "of_nobody": 0}
    assert replayed["interactions"]["added"] == REQUESTS
    page = tmp_path / "report.html"
    report = ("ab-report", "--experiment", "knowledge", "--replay")
    summary = last_line(installation.offline(*report, "--html", str(page), "--json"))
    assert summary["exposures"]["analysed"] == summary["exposures"]["rows"] == REQUESTS
    assert sum(arm["requests"] for arm in summary["arms"]) == REQUESTS
    assert sum(arm["clicks"] for arm in summary["arms"]) == summary["attribution"]["attributed"] == replayed["shown"]
    assert {arm["arm"] for arm in summary["arms"]} == {"plain", "knowledge"}
    assert page.read_text().startswith("<!doctype html>")
    assert "sample ratio" not in installation.offline(*report).stdout.lower()


@pytest.mark.parametrize("queue", [10_000, 2])
def test_redis_is_killed_in_the_middle_and_nothing_is_doubled_or_lost_uncounted(
    installation: Installation, tmp_path: Path, queue: int
) -> None:
    job = replace(installation.job, data_dir=tmp_path / "data")
    with embedded_redis(tmp_path / "data/valkey/ml-100k-replay", keep_alive=True):
        with driver.replay_store(job) as store:
            visits = driver.begin(job, store, 300, 49, 1)
            server: Any = store.redis.info("server")
            # By default a crash may take what was acknowledged in its last second, which nobody could count.
            store.redis.config_set("appendfsync", "always")
            settings = {
                "LORANK_KEY_PREFIX": store.keys.prefix,
                "LORANK_EXPOSURE_QUEUE": str(queue),
                "LORANK_EXPERIMENTS": str(DEMO_EXPERIMENTS),
            }
            with running_service(job, 0, settings) as service:
                killed = threading.Timer(1.0, os.kill, (int(server["process_id"]), signal.SIGKILL))
                killed.start()
                replayed = asyncio.run(driver.replay(service.url, visits, 10, 100.0, progress=False))
                killed.join()
                logged = httpx2.get(f"{service.url}/v1/status", timeout=10.0).json()["exposures"]
        with driver.replay_store(job) as store:
            after: Any = store.redis.info("server")
            archived = archive(store, tmp_path / "logged", NOBODY)
    assert after["process_id"] != server["process_id"], "the server was to be killed"
    assert replayed.requests == len(visits)
    exposures = read_exposures(tmp_path / "logged")
    assert set(exposures["request_id"]) <= {visit.request_id for visit in visits}
    assert len(exposures) + logged["dropped"] == len(visits)
    assert (logged["dropped"] > 0) == (queue == 2)
    mine = of_experiment(exposures, "knowledge")
    planned = settings_of(read_experiments(DEMO_EXPERIMENTS), "knowledge")
    report = analyse(mine, read_interactions(tmp_path / "logged"), planned)
    assert report.exposures.analysed == report.exposures.rows == len(exposures)
    assert archived["exposures"].lost == archived["exposures"].refused == 0
    interactions = read_interactions(tmp_path / "logged").select("unit", "item", "time_ms").unique()
    assert len(interactions) == len(visits)
