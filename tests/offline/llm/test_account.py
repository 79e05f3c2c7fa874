"""The account of a run: counted exactly, also of a killed run, and read again in whatever version it was written."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from offline.llm.account import CACHE_FILE, Account, Speed, open_accounts, recorded, speed_of
from offline.llm.budget import Prices
from offline.llm.cache import CacheError, ResponseCache
from offline.llm.protocol import Completion, Prompt
from tests.offline.llm.fakes import MODEL, FakeBackend, ask, new_account, plain_client

ROOT = Path(__file__).parents[3]

DIES = """
import os, signal, sys
from pathlib import Path
from offline.llm.account import CACHE_FILE, recorded
from offline.llm.cache import ResponseCache
from offline.llm.client import LLMClient
from tests.offline.llm.fakes import FakeBackend, ask, new_account
import asyncio
account = new_account(1.0, 2.0)
with ResponseCache(Path(sys.argv[1]) / CACHE_FILE) as cache, recorded(cache, account):
    client = LLMClient(FakeBackend(batch_size=4), cache, account, 1)
    asyncio.run(client.ask_all([ask(f"{n}") for n in range(8)], "films"))
    asyncio.run(client.complete_live(ask("live")))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_account_prices_what_was_paid() -> None:
    account = Account("tiny", Prices(0.5, 1.5), prompts=12, cache_hits=2, calls=10, seconds=3.25)
    account.charge([Completion("a", 200_000, 100_000)] * 10)
    assert account.cost == 2.5
    assert account.summary("films") == (
        "films [tiny]: 12 prompts, 2 from cache, 10 paid (2000000 + 1000000 tokens, cost 2.5000) in 10 calls, 3.2 s"
    )
    account.retries, account.failures = 3, 1
    assert account.summary("films").endswith("; 3 retries, 1 failures")


def test_accounts_of_other_versions_are_read() -> None:
    account = Account.parse({"run": "knowledge", "model_id": "tiny", "paid": 3, "cost": 2.0, "colour": "red"})
    assert (account.model_id, account.paid, account.cost, account.run_id) == ("tiny", 3, 2.0, "")
    assert Account.parse(account.document()) == account
    with pytest.raises(ValueError, match="not an account"):
        Account.parse({"run": "knowledge"})


def test_a_killed_run_leaves_its_exact_account(tmp_path: Path) -> None:
    child = subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], cwd=ROOT, check=False)
    assert child.returncode == -signal.SIGKILL
    (lost,) = open_accounts(tmp_path).values()
    assert (lost.paid, lost.calls, lost.prompt_tokens, lost.completion_tokens) == (9, 3, 297, 72)
    assert lost.cost == pytest.approx((297 * 1.0 + 72 * 2.0) / 1e6)
    assert lost.seconds > 0.0


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_a_run_that_ends_takes_its_account_along(cache: ResponseCache, error: type[BaseException] | None) -> None:
    def run() -> None:
        with recorded(cache, new_account()), recorded(cache, new_account()):  # two at once
            assert len(cache.open_runs()) == 2
            if error is not None:
                raise error

    if error is None:
        run()
    else:
        with pytest.raises(error):
            run()
    assert cache.open_runs() == {}


def test_speed_is_that_of_the_same_model_lately() -> None:
    runs = [Account("tiny", completion_tokens=10, seconds=10.0)]
    runs += [Account("tiny", completion_tokens=100, seconds=2.0) for _ in range(20)]
    runs += [Account("tiny", seconds=5.0), Account("big", completion_tokens=7, seconds=7.0)]
    assert speed_of(runs, "tiny").tokens == 50.0
    assert speed_of(runs, "big").tokens == 1.0
    assert speed_of(runs, "unknown") == Speed()


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
        with recorded(cache, Account(MODEL)):
            assert len(cache.open_runs()) == 1


def test_a_client_without_a_run_leaves_no_account(cache: ResponseCache) -> None:
    asyncio.run(plain_client(FakeBackend(), cache).ask_all([ask("a")], "free"))
    assert cache.open_runs() == {}


def test_weighed_choices_say_nothing_of_how_fast_a_model_writes() -> None:
    both = Account("tiny", completion_tokens=110, seconds=14.0, choices=10, choice_seconds=4.0)
    assert speed_of([both], "tiny") == Speed(10.0, 2.5)
    weighed = Account("tiny", completion_tokens=10, seconds=4.0, choices=10, choice_seconds=4.0)
    assert speed_of([weighed], "tiny") == Speed(None, 2.5)


async def test_choices_and_their_seconds_are_accounted(cache: ResponseCache) -> None:
    client = plain_client(FakeBackend(tokens=lambda prompt: (30, prompt.max_tokens)), cache)
    await client.ask_all([ask("a"), ask("b")], "texts")
    assert (client.account.choices, client.account.choice_seconds) == (0, 0.0)
    before = client.account.seconds
    choices = [Prompt((("user", text),), 1, choices=("1", "2")) for text in "abc"]
    await client.ask_all(choices, "numbers")
    assert (client.account.paid, client.account.choices, client.account.completion_tokens) == (5, 3, 35)
    assert client.account.choice_seconds == pytest.approx(client.account.seconds - before)
    again = Account.parse(client.account.document())
    assert again.choice_seconds == pytest.approx(client.account.choice_seconds, abs=1e-3)
    assert Account.parse({"model_id": "of a version without"}).choices == 0
