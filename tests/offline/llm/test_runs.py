"""Runs that die leave their account; runs at work are left alone."""

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from offline.llm.cache import CacheError, ResponseCache
from offline.llm.config import LLMConfig
from offline.llm.ledger import Ledger, read_ledger
from offline.llm.protocol import Completion
from offline.llm.runs import CACHE_FILE, LEDGER_FILE, accounted, history
from offline.llm.session import open_session
from tests.offline.llm.chat_server import ChatServer
from tests.offline.llm.fakes import MODEL, FakeBackend, ask, ledger, plain_client

ROOT = Path(__file__).parents[3]

DIES = """
import os, signal, sys
from pathlib import Path
from offline.llm.cache import CacheError, ResponseCache
from offline.llm.client import LLMClient
from offline.llm.runs import CACHE_FILE, accounted
from tests.offline.llm.fakes import FakeBackend, ask, ledger
import asyncio
workdir, mode = Path(sys.argv[1]), sys.argv[2]
account = ledger(1.0, 2.0)
with ResponseCache(workdir / CACHE_FILE) as cache, accounted(workdir, cache, account):
    client = LLMClient(FakeBackend(batch_size=4), cache, account, 1)
    asyncio.run(client.ask_all([ask(f"{n}") for n in range(8)], "films"))
    asyncio.run(client.complete_live(ask("live")))
    print("working", flush=True)
    if mode == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


def start(workdir: Path, mode: str) -> "subprocess.Popen[str]":
    child = subprocess.Popen(
        [sys.executable, "-c", DIES, str(workdir), mode],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "working\n"
    return child


def end(child: "subprocess.Popen[str]") -> None:
    child.communicate("")


def test_a_killed_run_is_accounted_for_by_the_next(server: ChatServer, tmp_path: Path) -> None:
    child = start(tmp_path, "die")
    end(child)
    assert child.returncode == -signal.SIGKILL
    assert not (tmp_path / LEDGER_FILE).exists()
    (lost,) = history(tmp_path)  # for `status`, which settles nothing
    assert (lost.status, lost.paid, lost.calls, lost.prompt_tokens, lost.completion_tokens) == ("killed", 9, 3, 297, 72)
    assert lost.cost == pytest.approx((297 * 1.0 + 72 * 2.0) / 1e6)
    assert lost.seconds > 0.0
    config = LLMConfig(backend="openai", base_url=server.base_url, model="tiny")
    for _ in range(2):
        with open_session(config, tmp_path, "next") as llm:
            llm.ask_all([ask("a")], "next")
    runs = read_ledger(tmp_path / LEDGER_FILE)
    assert [(run.run, run.status, run.paid) for run in runs] == [
        ("test", "killed", 9),
        ("next", "done", 1),
        ("next", "done", 0),
    ]
    assert runs[0] == lost
    assert history(tmp_path) == runs
    assert {file.name for file in tmp_path.iterdir()} >= {CACHE_FILE, LEDGER_FILE}
    assert list(tmp_path.glob(".*.run")) == []


def test_a_run_at_work_is_left_alone_and_two_may_work_at_once(tmp_path: Path) -> None:
    children = [start(tmp_path, "work") for _ in range(2)]
    assert [run.status for run in history(tmp_path)] == ["running", "running"]
    with ResponseCache(tmp_path / CACHE_FILE) as cache, accounted(tmp_path, cache, ledger()):
        assert len(cache.open_runs()) == 3
    assert [run.status for run in read_ledger(tmp_path / LEDGER_FILE)] == ["done"]
    for child in children:
        end(child)
    assert [run.status for run in history(tmp_path)] == ["done"] * 3
    # the second found the answers of the first; both paid their live call
    assert sorted(run.paid for run in history(tmp_path))[:2] == [0, 1]


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError, "failed"), (KeyboardInterrupt, "killed"), (SystemExit, "killed")]
)
def test_every_end_is_recorded(tmp_path: Path, error: type[BaseException], status: str) -> None:
    def end_with(own: Ledger) -> None:
        with accounted(tmp_path, cache, own):
            raise error

    with ResponseCache(tmp_path / CACHE_FILE) as cache:
        with pytest.raises(error):
            end_with(ledger())
        assert cache.open_runs() == {}
        known_better = ledger()
        known_better.status = "partial"  # the caller said so
        with pytest.raises(error):
            end_with(known_better)
    assert [run.status for run in read_ledger(tmp_path / LEDGER_FILE)] == [status, "partial"]


def test_a_run_killed_between_its_line_and_its_end_is_counted_once(tmp_path: Path) -> None:
    with ResponseCache(tmp_path / CACHE_FILE) as cache:
        with accounted(tmp_path, cache, ledger()):
            pass
        (line,) = (tmp_path / LEDGER_FILE).read_text().splitlines()
        cache.put_many({}, (json.loads(line)["run_id"], line))  # as if forget_run had never come
        with accounted(tmp_path, cache, ledger()):
            assert len(cache.open_runs()) == 1
    assert [run.status for run in read_ledger(tmp_path / LEDGER_FILE)] == ["done", "done"]


def test_answers_and_account_are_stored_together_or_not_at_all(tmp_path: Path) -> None:
    with ResponseCache(tmp_path / CACHE_FILE) as cache:
        cache.put_many({"0" * 64: Completion("a", 1, 1)}, ("run", "1"))
        with pytest.raises(CacheError, match="NOT NULL"):
            cache.put_many({"1" * 64: Completion("b", 1, 1)}, ("run", None))  # type: ignore[arg-type]
        assert cache.totals()[0] == 1
        assert cache.open_runs() == {"run": "1"}


def test_caches_of_before_there_were_accounts_are_used_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / CACHE_FILE
    connection = sqlite3.connect(path)
    connection.execute(
        "CREATE TABLE answers (key TEXT PRIMARY KEY, text TEXT NOT NULL, prompt_tokens INTEGER NOT NULL,"
        " completion_tokens INTEGER NOT NULL, created_at REAL NOT NULL) WITHOUT ROWID"
    )
    connection.execute("PRAGMA user_version=1")
    connection.execute("INSERT INTO answers VALUES (?, 'old', 1, 1, 0.0)", ("0" * 64,))
    connection.commit()
    connection.close()
    with ResponseCache(path) as cache:
        assert cache.get_many(["0" * 64])["0" * 64].text == "old"
        assert cache.open_runs() == {}
        with accounted(tmp_path, cache, Ledger("run", MODEL)):
            assert len(cache.open_runs()) == 1


def test_a_client_without_a_run_leaves_no_account(cache: ResponseCache) -> None:
    asyncio.run(plain_client(FakeBackend(), cache).ask_all([ask("a")], "free"))
    assert cache.open_runs() == {}
