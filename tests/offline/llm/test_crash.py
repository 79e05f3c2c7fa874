"""kill -9 at random points of a run.

The guarantee: an answer that was stored is never paid again, and at any kill at most `concurrency` x `batch_size`
prompts (4 x 1 here) were paid without being stored. The final texts are those of a run nobody interrupted.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from offline.llm.cache import ResponseCache, cache_key
from offline.llm.protocol import Prompt
from offline.llm.session import CACHE_FILE
from tests.offline.llm.chat_server import ChatServer
from tests.offline.llm.crash_child import CONCURRENCY, TEXTS

ROOT = Path(__file__).parents[3]


def start(server: ChatServer, workdir: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tests.offline.llm.crash_child", server.base_url, workdir, workdir / "out.json"]
    return subprocess.Popen([str(part) for part in command], cwd=ROOT, stderr=subprocess.DEVNULL)


def stored_texts(workdir: Path) -> set[str]:
    keys = {cache_key("tiny", Prompt((("user", text),), max_tokens=16)): text for text in TEXTS}
    with ResponseCache(workdir / CACHE_FILE) as cache:
        return {keys[key] for key in cache.get_many(list(keys))}


@pytest.mark.parametrize("seed", [1, 2])
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
    for share in sorted(chance.uniform(0.05, 0.9) for _ in range(4)):
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
