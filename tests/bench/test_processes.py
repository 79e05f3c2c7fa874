"""Processes of a server, found and held still."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.serving.processes import awake, cpu_seconds, memory, pause, tree

PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"


@pytest.fixture
def server() -> Iterator[int]:
    """A process with a child that never rests."""
    process = subprocess.Popen([sys.executable, "-c", PARENT])
    try:
        while len(tree(process.pid)) < 2 or cpu_seconds(process.pid) < 0.05:
            time.sleep(0.01)
        yield process.pid
    finally:
        everyone = tree(process.pid)
        for pid in reversed(everyone):
            subprocess.run(["kill", "-9", str(pid)], check=True)
        process.wait()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def until_all(pids: list[int], states: str) -> None:
    while any(state(pid) not in states for pid in pids):
        time.sleep(0.01)


def test_children_count_and_stop_with_their_parent(server: int) -> None:
    both = tree(server)
    assert len(both) == 2
    assert memory(server)["rss"] >= memory(server)["pss"] > 1
    pause(server)
    until_all(both, "T")
    before = cpu_seconds(server)
    time.sleep(0.1)
    assert cpu_seconds(server) == before
    with awake(server):
        until_all(both, "RS")
        while cpu_seconds(server) == before:
            time.sleep(0.01)
    until_all(both, "T")
