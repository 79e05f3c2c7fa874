"""kill -9 at random points of a run, and at every boundary of storing.

What holds: an answer that was stored is never paid again; a kill costs at most the `concurrency` x `batch_size` prompts
that were in flight, because no worker asks on before its answers are committed; the texts at the end, and the bytes of
the exported cache, are those of a run that nobody interrupted. Every prompt is paid exactly once if no kill falls
between the moment an answer is handed over and its commit. That window cannot be closed from this side.
"""

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from offline.llm.account import CACHE_FILE, open_accounts
from offline.llm.cache import ResponseCache, cache_key
from offline.llm.protocol import Prompt
from tests.offline.llm import crash_rounds
from tests.offline.llm.chat_server import ChatServer
from tests.offline.llm.crash_child import CONCURRENCY, TEXTS

ROOT = Path(__file__).parents[3]
PROMPTS = len(set(crash_rounds.SUMMARIES)) + crash_rounds.SHIFTS


def start(server: ChatServer, workdir: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tests.offline.llm.crash_child", server.base_url, workdir, workdir / "out.json"]
    return subprocess.Popen([str(part) for part in command], cwd=ROOT, stderr=subprocess.DEVNULL)


def stored_texts(workdir: Path) -> set[str]:
    keys = {cache_key("tiny", Prompt((("user", text),), max_tokens=16)): text for text in TEXTS}
    with ResponseCache(workdir / CACHE_FILE) as cache:
        return {keys[key] for key in cache.get_many(list(keys))}


@pytest.mark.parametrize("seed", [1])
def test_what_was_stored_is_never_paid_again(server: ChatServer, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    server.delay = lambda text: 0.001 + 0.004 * chance.random()
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    undisturbed.mkdir()
    killed.mkdir()
    assert start(server, undisturbed).wait(timeout=120) == 0
    assert set(server.asked.values()) == {1}
    server.asked.clear()

    unique = set(TEXTS)
    kills = 0
    for share in sorted(chance.uniform(0.05, 0.9) for _ in range(3)):
        before = server.asked.copy()
        known = stored_texts(killed)
        child = start(server, killed)
        calls = max(1, int(share * len(unique)) - len(known))
        server.wait_until(lambda: sum(server.asked.values()) - before.total() >= calls)  # noqa: B023 - used at once
        child.kill()
        assert child.wait(timeout=60) == -9
        kills += 1
        server.wait_until(server.quiet)  # what the dead process had sent is counted in this round
        asked_now = server.asked - before
        assert not known & asked_now.keys(), "paid again although it was stored"
        assert max(asked_now.values()) == 1
        assert len(asked_now.keys() - stored_texts(killed)) <= CONCURRENCY, "more was lost than was in flight"

    assert not (killed / "out.json").exists()
    known, before = stored_texts(killed), server.asked.copy()
    assert start(server, killed).wait(timeout=120) == 0
    assert (server.asked - before).keys() == unique - known
    assert server.asked.total() <= len(unique) + kills * CONCURRENCY
    assert json.loads((killed / "out.json").read_text()) == json.loads((undisturbed / "out.json").read_text())


def rounds(folder: Path, mode: str, seed: int = 1) -> list[dict[str, Any]]:
    """The report of a job that was killed KILLS times; see crash_rounds."""
    folder.mkdir()
    command = [sys.executable, "-m", "tests.offline.llm.crash_rounds", str(folder), str(seed), mode]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    report: list[dict[str, Any]] = json.loads((folder / "rounds.json").read_text())
    return report


def exported(folder: Path) -> bytes:
    with ResponseCache(folder / CACHE_FILE) as cache:
        cache.export_jsonl_gz(folder / "export.jsonl.gz")
    return (folder / "export.jsonl.gz").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crash") / "undisturbed"
    (report,) = rounds(folder, "never")
    assert set(Counter(report["paid"]).values()) == {1}
    assert len(report["paid"]) == PROMPTS
    return folder


@pytest.mark.parametrize("mode", ["random", "boundary"])
def test_after_twenty_kills_nothing_stored_was_paid_again(tmp_path: Path, undisturbed: Path, mode: str) -> None:
    folder = tmp_path / mode
    *killed, last = rounds(folder, mode)
    assert [life["code"] for life in killed] == [-9] * crash_rounds.KILLS
    assert last["code"] == 0
    in_flight = crash_rounds.CONCURRENCY * crash_rounds.BATCH if mode == "random" else 1
    again = 0
    for life in [*killed, last]:
        assert not set(life["paid"]) & set(life["known"]), "paid again although it was stored"
        assert set(Counter(life["paid"]).values()) <= {1}
        lost = len(set(life["paid"]) - set(life["stored"]))
        assert lost <= in_flight
        if mode == "boundary":
            # exact: only the kill between an answer and its commit loses one
            assert lost == (life["boundary"] == "before a commit"), life["boundary"]
        again += lost
    paid = Counter(key for life in [*killed, last] for key in life["paid"])
    assert len(paid) == PROMPTS
    assert paid.total() == len(paid) + again
    assert (folder / "out.json").read_bytes() == (undisturbed / "out.json").read_bytes()
    assert exported(folder) == exported(undisturbed)
    assert_every_run_is_accounted_for(folder, [*killed, last])


def assert_every_run_is_accounted_for(folder: Path, starts: list[dict[str, Any]]) -> None:
    """The accounts of killed runs lie between what they stored and what was paid; a run that ends leaves none."""
    accounts = open_accounts(folder)
    *killed, last = starts
    # a run that died while it opened left no account and paid nothing
    assert len([life for life in killed if life["paid"]]) <= len(accounts) <= len(killed)
    stored = [len(set(life["stored"]) - set(life["known"])) for life in killed]
    paid = [len(life["paid"]) for life in killed]
    assert sum(stored) <= sum(account.paid for account in accounts.values()) <= sum(paid)
    assert json.loads((folder / "last_paid.json").read_text()) == len(last["paid"])
