"""Kills a job again and again: `python -m tests.offline.llm.crash_rounds WORKDIR SEED (random|boundary|never)`.

The job runs in forks of this process, so that a kill costs no start-up, and each fork dies by SIGKILL. Its back end
writes every prompt it answers to a file, with fsync, at the moment the answers are handed over: that is the list of
what was paid. At the end a report of all rounds goes to WORKDIR/rounds.json.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from offline.llm.account import CACHE_FILE, recorded
from offline.llm.cache import ResponseCache
from offline.llm.client import LLMClient
from offline.llm.protocol import Completion, Prompt
from tests.offline.llm.fakes import MODEL, ask, key, new_account

KILLS = 20
CONCURRENCY = 3
BATCH = 4
MOST_PER_ROUND = 12  # answers before a death that comes late: KILLS times this is less than all there is to ask
SUMMARIES = [ask(f"user {n % 250}") for n in range(260)]  # some of them twice
SHIFTS = 40  # each quotes the summary of one user, as LIBER's shift texts do
BOUNDARIES = ("opened", "before a call", "before a commit", "after a commit")
LAST_BOUNDARIES = ("between the lists", "before the end", "opened")


class Killer:
    """Kills its own process when a boundary is reached for the n-th time."""

    def __init__(self, boundary: str | None, count: int) -> None:
        self._boundary = boundary
        self._count = count

    def at(self, boundary: str) -> None:
        self._count -= boundary == self._boundary
        if boundary == self._boundary and self._count == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class PaidBackend:
    """Answers after a few milliseconds and writes down what was paid.

    After `most` prompts it answers no more: a job that is to be killed never ends first, however slow the machine.
    """

    model_id = MODEL

    def __init__(self, log: Path, batch_size: int, killer: Killer, most: float) -> None:
        self.batch_size = batch_size
        self._killer = killer
        self._left = most
        self._chance = random.Random()
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        self._killer.at("before a call")
        self._left -= len(prompts)
        if self._left < 0:
            await asyncio.Event().wait()
        await asyncio.sleep(0.001 + 0.004 * self._chance.random())
        os.write(self._log, "".join(f"{key(prompt)}\n" for prompt in prompts).encode())
        os.fsync(self._log)
        return [Completion(f"answer to <{prompt.messages[0][1]}>", 10, 5) for prompt in prompts]

    async def close(self) -> None:
        pass


class WatchedCache(ResponseCache):
    """A cache with boundaries before and after each commit of answers."""

    killer = Killer(None, 0)

    def put_many(self, answers: Mapping[str, Completion], account: tuple[str, str] | None = None) -> None:
        if answers:
            self.killer.at("before a commit")
        super().put_many(answers, account)
        if answers:
            self.killer.at("after a commit")


def job(workdir: Path, killer: Killer, concurrency: int, batch_size: int, most: float) -> None:
    account = new_account()
    WatchedCache.killer = killer
    with WatchedCache(workdir / CACHE_FILE) as cache, recorded(cache, account):
        killer.at("opened")
        client = LLMClient(PaidBackend(workdir / "paid", batch_size, killer, most), cache, account, concurrency)
        with asyncio.Runner() as runner:
            summaries = runner.run(client.ask_all(SUMMARIES, "summaries")).texts
            killer.at("between the lists")
            shifts = [ask(f"after {text}", 8) for text in summaries[:SHIFTS]]
            texts = runner.run(client.ask_all(shifts, "shifts")).texts
        killer.at("before the end")
    (workdir / "last_paid.json").write_text(json.dumps(account.paid))
    (workdir / "out.json").write_text(json.dumps([*summaries, *texts]))


def paid_lines(workdir: Path) -> list[str]:
    path = workdir / "paid"
    return path.read_text().splitlines() if path.is_file() else []


def stored_keys(workdir: Path) -> list[str]:
    with ResponseCache(workdir / CACHE_FILE) as cache:
        return [row[0] for row in cache._connection.execute("SELECT key FROM answers")]


def boundaries(chance: random.Random) -> list[str]:
    """Where the kills of mode "boundary" happen; the late ones let the job get that far."""
    return [*chance.choices(BOUNDARIES, k=KILLS - len(LAST_BOUNDARIES)), *LAST_BOUNDARIES]


def round_of(workdir: Path, mode: str, chance: random.Random, boundary: str | None) -> dict[str, object]:
    """One start of the job and, unless mode is "never", its death."""
    known, before = stored_keys(workdir), len(paid_lines(workdir))
    killer = Killer(boundary, chance.randrange(1, 7) if boundary in BOUNDARIES[1:] else 1)
    size = (1, 1) if mode == "boundary" else (CONCURRENCY, BATCH)
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the progress bars
        try:
            job(workdir, killer, *size, MOST_PER_ROUND if mode == "random" else float("inf"))
        finally:
            os._exit(0 if (workdir / "out.json").is_file() else 1)
    if mode == "random":
        # mostly in the worst moment: when an answer has just been paid
        answers, extra = chance.randrange(0, MOST_PER_ROUND - BATCH), chance.uniform(0.0, 0.008)
        while len(paid_lines(workdir)) < before + answers:
            time.sleep(0.0002)
        time.sleep(extra)
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {
        "boundary": boundary,
        "code": code,
        "known": known,
        "paid": paid_lines(workdir)[before:],
        "stored": stored_keys(workdir),
    }


def main() -> None:
    workdir, chance, mode = Path(sys.argv[1]), random.Random(int(sys.argv[2])), sys.argv[3]
    kills: dict[str, list[str | None]] = {"random": [None] * KILLS, "boundary": [*boundaries(chance)], "never": []}
    rounds = [round_of(workdir, mode, chance, boundary) for boundary in kills[mode]]
    rounds.append(round_of(workdir, "never", chance, None))
    (workdir / "rounds.json").write_text(json.dumps(rounds))


if __name__ == "__main__":
    main()
