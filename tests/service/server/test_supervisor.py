"""Workers are replaced one by one, and none outlives its supervisor."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.service.server.work import ORDERS


class Workers:
    """A supervisor as a process, and what its workers did."""

    def __init__(self, folder: Path) -> None:
        self.orders = folder / "orders"
        self.process: subprocess.Popen[bytes]

    def start(self, count: int, orders: str, watch_seconds: float = 0.2) -> None:
        self.orders.write_text(orders)
        command = [sys.executable, "-m", "tests.service.server.work", str(count), str(watch_seconds)]
        self.process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {ORDERS: str(self.orders)})

    @property
    def claims(self) -> list[tuple[int, str]]:
        """Process ids and words of all workers so far, in the order of their start."""
        path = self.orders.with_suffix(".claims")
        lines = path.read_text().splitlines() if path.is_file() else []
        return [(int(line.split()[0]), line.split()[1]) for line in lines]

    def living(self) -> set[int]:
        return {process for process, _ in self.claims if Path(f"/proc/{process}").exists()}


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    workers = Workers(tmp_path)
    yield workers
    workers.process.kill()
    workers.process.wait()
    awaited(lambda: not workers.living())


def awaited(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_worker_that_was_killed_is_replaced_and_the_other_goes_on(workers: Workers) -> None:
    workers.start(2, "well well")
    awaited(lambda: len(workers.claims) == 2)
    first, second = (process for process, _ in workers.claims)
    os.kill(first, signal.SIGKILL)
    awaited(lambda: len(workers.claims) == 3)
    assert second in workers.living()
    workers.process.send_signal(signal.SIGTERM)
    assert workers.process.wait(60) == 0
    assert not workers.living()


def test_a_worker_that_was_ready_a_moment_ago_has_served(workers: Workers) -> None:
    """Though nobody has looked since."""
    workers.start(1, "well", watch_seconds=30.0)
    awaited(lambda: len(workers.claims) == 1)
    time.sleep(0.2)
    workers.process.send_signal(signal.SIGTERM)
    assert workers.process.wait(60) == 0


def test_replacements_that_fail_do_not_stop_the_others(workers: Workers) -> None:
    workers.start(2, "well well fails fails well")
    awaited(lambda: len(workers.claims) == 2)
    first, second = (process for process, _ in workers.claims)
    time.sleep(0.5)  # both were seen to be ready
    os.kill(first, signal.SIGKILL)
    awaited(lambda: len(workers.claims) == 5)
    assert [word for _, word in workers.claims[2:]] == ["fails", "fails", "well"]
    assert second in workers.living()


def test_without_a_worker_that_was_ever_ready_it_ends(workers: Workers) -> None:
    workers.start(2, "fails " * 100)
    assert workers.process.wait(60) == 1


def test_a_worker_that_stands_still_is_replaced(workers: Workers) -> None:
    workers.start(1, "still well")
    awaited(lambda: [word for _, word in workers.claims] == ["still", "well"])
    awaited(lambda: len(workers.living()) == 1)


def test_a_worker_that_cannot_be_started_does_not_stop_the_others(workers: Workers) -> None:
    workers.start(2, "well well")
    awaited(lambda: len(workers.claims) == 2)
    first, second = (process for process, _ in workers.claims)
    time.sleep(0.5)  # both were seen to be ready
    descriptors = resource.prlimit(workers.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(workers.process.pid, resource.RLIMIT_NOFILE, (3, descriptors[1]))
    os.kill(first, signal.SIGKILL)
    time.sleep(1.0)
    resource.prlimit(workers.process.pid, resource.RLIMIT_NOFILE, descriptors)
    awaited(lambda: len(workers.claims) == 3)
    assert workers.process.poll() is None
    assert second in workers.living()


@pytest.mark.parametrize("word", ["well", "late"])
def test_workers_end_with_a_supervisor_that_was_killed(workers: Workers, word: str) -> None:
    """Also one that begins to watch only then."""
    workers.start(2, f"{word} {word}")
    awaited(lambda: len(workers.claims) == 2)
    workers.process.kill()
    awaited(lambda: not workers.living())
