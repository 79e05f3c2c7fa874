"""kill -9 at any of 20 random moments of a refresh, then resume.

The run is cut into 20 parts of equal length, and each test kills in one of them; the 8 of `make test` lie in different
eighths of the run.

What holds: an answer that was stored is never paid again, so at most the calls in flight (here one) are paid twice; the
records that are published at the end equal those of a run that nobody disturbed; and the ledger tells of the kill.
"""

from __future__ import annotations

import multiprocessing
import random
import shutil
from collections import Counter
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

from offline.llm.account import CACHE_FILE
from offline.llm.cache import ResponseCache, cache_key
from offline.llm.protocol import Prompt
from tests.offline.kill_child import refresh
from tests.offline.pipeline import LATER_MS, Pipeline, pipeline

KILLS, IN_EVERY_RUN = 20, 8
EVERYWHERE = frozenset((2 * part + 1) * KILLS // (2 * IN_EVERY_RUN) for part in range(IN_EVERY_RUN))
"""The parts of the run, in the middle of each eighth, in which it is killed in `make test` too."""

PRELOADED = [
    "tests.offline.kill_child",
    "offline.jobs.status",
    "offline.knowledge.liber.produce",
    "faiss",
    "sklearn.decomposition",
    "torch",
]


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Processes that are forked from one in which everything is imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def run(processes: ForkServerContext, installation: Pipeline, die_at: int | None) -> tuple[int | None, Any]:
    """(exit code, (ledger line, moments)) of one refresh; no line of one that was killed."""
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=refresh, args=(installation, die_at, sender))
    process.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:
        answer = None
    process.join()
    receiver.close()
    return process.exitcode, answer


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, shared_valkey: str, processes: ForkServerContext
) -> tuple[Pipeline, int]:
    """A first refresh, with events waiting in the stream, that nobody killed; and how many moments it had."""
    installation = pipeline(tmp_path_factory.mktemp("undisturbed"), shared_valkey, "undisturbed")
    events_come_in(installation)
    code, (entry, moments) = run(processes, installation, None)
    assert code == 0
    assert entry["status"] == "done"
    return installation, moments


def events_come_in(installation: Pipeline) -> None:
    installation.stream(*(("u3", f"i{at}", 5.0, LATER_MS + at) for at in range(7)), ("newcomer", "i1", 4.0, LATER_MS))


def stored(installation: Pipeline) -> set[str]:
    """The paid prompts whose answers are stored."""
    path = installation.config.workdir / "llm" / CACHE_FILE
    keys = {key: text for text in installation.model.paid() for key in _keys(text)}
    if not path.is_file():
        return set()
    with ResponseCache(path) as cache:
        return {keys[key] for key in cache.get_many(list(keys))}


def _keys(text: str) -> list[str]:
    return [cache_key("counting", Prompt((("user", text),), tokens, 0.0, 1.05)) for tokens in (48, 64)]


def test_the_kills_of_every_run_are_spread_over_the_whole_refresh() -> None:
    assert sorted(part * IN_EVERY_RUN // KILLS for part in EVERYWHERE) == list(range(IN_EVERY_RUN))


@pytest.mark.parametrize(
    "number", [pytest.param(number, marks=() if number in EVERYWHERE else pytest.mark.slow) for number in range(KILLS)]
)
def test_a_killed_refresh_is_resumed(
    number: int, undisturbed: tuple[Pipeline, int], processes: ForkServerContext, tmp_path: Path
) -> None:
    whole, moments = undisturbed
    die_at = random.Random(number).randint(number * moments // KILLS + 1, (number + 1) * moments // KILLS)
    killed = pipeline(tmp_path, whole.url, f"killed-{number}")
    events_come_in(killed)
    assert run(processes, killed, die_at) == (-9, None)
    safe, before = stored(killed), len(killed.model.paid())

    code, (entry, _) = run(processes, killed, None)

    assert (code, entry["status"]) == (0, "done")
    assert not safe & set(killed.model.paid()[before:]), "paid again although it was stored"
    assert Counter(killed.model.paid()).total() <= len(whole.model.paid()) + 1
    assert set(killed.model.paid()) == set(whole.model.paid())
    assert killed.published() == whole.published()
    assert entry["release"] == whole.runs()[-1]["release"]
    earlier = killed.runs()[:-1]
    assert [run_entry["status"] for run_entry in earlier] == ["killed"]
    if before:
        assert earlier[0]["llm"]["paid"] == len(safe)
    if number % 5 == 1:
        assert run(processes, killed, None)[1][0]["bytes_written"] == 0
    shutil.rmtree(tmp_path)
