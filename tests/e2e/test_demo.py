"""The demo as a newcomer runs it: it checks itself, and Ctrl-C ends everything that it started."""

from __future__ import annotations

import os
import re
import signal
import subprocess

import httpx2
import pytest

from offline.child import child_python
from tests.conftest import ROOT, Installation, clean_environment


def demo(installation: Installation, *arguments: str) -> subprocess.Popen[str]:
    command = child_python("-m", "offline", "demo", "--port", "0", "--config", str(installation.config))
    return subprocess.Popen(
        [*command, "--data-dir", str(installation.data_dir), *arguments],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow(small="tests/e2e/test_demo.py::test_a_demo_shows_a_live_answer_and_ctrl_c_ends_it_and_its_service")
def test_the_check_passes_and_shows_a_live_answer(installation: Installation) -> None:
    """CI has run ``make demo-check`` before any test."""
    process = demo(installation, "--check")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "demo-check: passed" in output
    assert_shows_a_live_answer(output)


def assert_shows_a_live_answer(output: str) -> None:
    assert re.search(r"a live call to smollm2.*\n  asked .*\n", output)
    assert "timing_ms" in output


def test_a_demo_shows_a_live_answer_and_ctrl_c_ends_it_and_its_service(installation: Installation) -> None:
    process = demo(installation)
    assert process.stdout is not None
    url, output = None, ""
    for line in process.stdout:
        output += line
        if serving := re.match(r"Serving on (\S+);", line):
            url = serving[1]
            break
    assert url is not None, output
    assert_shows_a_live_answer(output)
    assert httpx2.get(f"{url}/readyz", timeout=5.0).status_code == 200
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: every process of the group gets it
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, rest
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{url}/healthz", timeout=5.0)
