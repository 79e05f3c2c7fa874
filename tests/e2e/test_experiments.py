"""The demo's experiment on real interactions: what was sent is what is analysed, nothing lost and nothing doubled."""

from __future__ import annotations

import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from tests.conftest import Installation

REQUESTS = 120


def last_line(ended: CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def test_a_replay_is_reported_request_by_request(installation: Installation, tmp_path: Path) -> None:
    replayed = last_line(installation.offline("replay", "--requests", str(REQUESTS)))
    assert replayed["requests"] == replayed["feedback"] == REQUESTS
    assert replayed["exposures"] == {"added": REQUESTS, "refused": 0, "lost": 0}
    assert replayed["interactions"]["added"] == REQUESTS
    page = tmp_path / "report.html"
    report = ("ab-report", "--experiment", "knowledge", "--replay")
    found = last_line(installation.offline(*report, "--html", str(page), "--json"))
    assert found["exposures"]["analysed"] == found["exposures"]["rows"] == REQUESTS
    assert sum(one["requests"] for one in found["arms"]) == REQUESTS
    assert sum(one["clicks"] for one in found["arms"]) == found["attribution"]["attributed"] == replayed["shown"]
    assert {one["arm"] for one in found["arms"]} == {"plain", "knowledge"}
    assert page.read_text().startswith("<!doctype html>")
    assert "sample ratio" not in installation.offline(*report).stdout.lower()
