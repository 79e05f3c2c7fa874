"""The account of a run survives the run: it lies beside the answers and is settled by whoever comes next.

Every commit of answers also writes the run's ledger line so far (cache.py), in the same transaction. A run that ends
moves its line to the ledger file. A run that was killed cannot: its line stays in the cache, and the kernel gives back
the lock on its file, which is how the next run tells a dead run from one at work beside it. So after `kill -9` the
ledger knows of every committed answer; what was in flight is in neither.
"""

import fcntl
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from offline.llm.cache import ResponseCache
from offline.llm.ledger import Ledger, Status, now, read_ledger

CACHE_FILE = "answers.sqlite3"
LEDGER_FILE = "ledger.jsonl"

_SETTLING = ".runs.lock"
_SUFFIX = ".run"


@contextmanager
def accounted(workdir: Path, cache: ResponseCache, ledger: Ledger) -> Iterator[None]:
    """Give the run an id, settle runs that died, and write the ledger line when the block ends, however it ends.

    The run is "failed" after an error, "killed" after Ctrl-C, "partial" with absent prompts and else "done", unless
    the caller set a status.
    """
    ledger.run_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"
    ledger.started_at = now()
    mark = _mark(workdir, ledger.run_id)
    with ExitStack() as held:
        with _settling(workdir):
            _settle(workdir, cache)
            fcntl.flock(held.enter_context(mark.open("w")), fcntl.LOCK_EX)
            cache.put_many({}, (ledger.run_id, ledger.line()))
        try:
            yield
        except BaseException as error:
            if ledger.status == "running":
                ledger.status = "failed" if isinstance(error, Exception) else "killed"
            raise
        finally:
            if ledger.status == "running":
                ledger.status = "partial" if ledger.absent else "done"
            ledger.append_to(workdir / LEDGER_FILE)
            # in this order: killed in between, the run is found twice and counted once, by its id
            cache.forget_run(ledger.run_id)
            mark.unlink(missing_ok=True)


def history(workdir: Path) -> list[Ledger]:
    """All runs that left a trace, oldest first, then those that died or still run. Changes nothing."""
    runs = {run.run_id or str(at): run for at, run in enumerate(read_ledger(workdir / LEDGER_FILE))}
    if (workdir / CACHE_FILE).is_file():
        with ResponseCache(workdir / CACHE_FILE) as cache:
            for run_id, line in cache.open_runs().items():
                status: Status = "running" if _is_alive(_mark(workdir, run_id)) else "killed"
                runs.setdefault(run_id, replace(Ledger.parse(line), status=status))
    return list(runs.values())


def _settle(workdir: Path, cache: ResponseCache) -> None:
    lost = {run_id: line for run_id, line in cache.open_runs().items() if not _is_alive(_mark(workdir, run_id))}
    if lost:
        settled = {run.run_id for run in read_ledger(workdir / LEDGER_FILE)}
        for run_id, line in lost.items():
            if run_id not in settled:
                replace(Ledger.parse(line), status="killed").append_to(workdir / LEDGER_FILE)
            cache.forget_run(run_id)
    for mark in workdir.glob(f".*{_SUFFIX}"):
        if not _is_alive(mark):
            mark.unlink(missing_ok=True)


def _mark(workdir: Path, run_id: str) -> Path:
    return workdir / f".{run_id}{_SUFFIX}"


def _is_alive(mark: Path) -> bool:
    """Whether the process that made the mark still holds it."""
    try:
        with mark.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextmanager
def _settling(workdir: Path) -> Iterator[None]:
    """One process at a time opens or settles runs, so that no mark is judged before it is locked."""
    with (workdir / _SETTLING).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
