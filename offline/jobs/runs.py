"""One run of a job: how it holds the work folder, how it ends, and its line in the ledger (ledger.py).

One job at a time per work folder: two at once would pay prompts twice and overwrite each other's files. The kernel's
lock on a file is the truth: it ends with the process that took it, however that ends. The text in the file only tells
people who that is. It is emptied with the lock and checked against the processes there are, so that what a killed job
left behind is never shown as the holder; of a process on another host the lock itself is asked.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from offline.data.catalogue import DataError, lasting, line_of
from offline.jobs.ledger import RunLedger, RunRecord, RunStatus, iso_time
from offline.jobs.steps import Job, Stopwatch, step
from offline.llm.account import Account, new_run_id
from offline.publish.publish import Published
from offline.publish.release import refusal_line

EXIT_CODES: Mapping[RunStatus, int] = {
    RunStatus.DONE: 0,
    RunStatus.FAILED: 1,
    RunStatus.PARTIAL: 3,
    RunStatus.LOCKED: 4,
    RunStatus.INTERRUPTED: 130,
}
"""2 is a wrong call: an unknown option, or a configuration that is not understood."""
TERMINATED = 143
"""In place of 130 after SIGTERM."""

_PROGRAM = ("models", "offline")
"""Packages whose errors say in words of their own what is wrong, and mark what quotes data (``DataLine``)."""

_LOOK_S, _BETWEEN_S = 0.05, 0.02
"""Whoever only looks has the lock for microseconds: a job that finds it taken tries again for so long, so often."""


class LockedError(RuntimeError):
    """Another job holds the folder. ``holder`` says who, if it has said so."""

    def __init__(self, folder: Path, holder: Holder | None) -> None:
        who = "by a process that has not said who it is" if holder is None else f"by {holder.described()}"
        super().__init__(f"another job is at work in {folder}: held {who}")
        self.holder = holder


@dataclass(frozen=True, slots=True)
class Holder:
    """The holder of a folder. ``since`` is ISO 8601 in UTC; ``begun`` tells processes of one number apart (Linux)."""

    pid: int
    job: str
    host: str
    since: str
    begun: str = ""

    @classmethod
    def me(cls, job: str) -> Holder:
        return cls(os.getpid(), job, socket.gethostname(), iso_time(time.time()), _begun(os.getpid()))

    def described(self) -> str:
        return f"`{self.job}`, process {self.pid} on {self.host}, since {self.since}"

    @property
    def is_elsewhere(self) -> bool:
        """Whether the process is on another host, or in another container, whose processes cannot be seen from here."""
        return self.host != socket.gethostname()

    def lives(self) -> bool:
        """Whether the process may still be there; always true of one that is elsewhere."""
        if self.is_elsewhere:
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # it is there, and another user's
        return _begun(self.pid) == self.begun


@contextmanager
def exclusive(folder: Path, job: str) -> Iterator[None]:
    """Hold ``folder``, which is made if need be. LockedError, at once, if another job holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    try:
        lock = FileLock(path).acquire(timeout=_LOOK_S, poll_interval=_BETWEEN_S)
    except Timeout:
        raise LockedError(folder, _read(path)) from None
    with lock:
        try:
            path.write_text(json.dumps(asdict(Holder.me(job))), encoding="utf-8")
            yield
        finally:
            path.write_text("", encoding="utf-8")


def holder(folder: Path) -> Holder | None:
    """The holder of ``folder``, as far as can be told; None if nobody does.

    The lock itself is tried only where the text names a process elsewhere, for an instant that ``exclusive`` waits out.
    """
    holding = _read(folder / "lock")
    if holding is None or not holding.is_elsewhere:
        return holding
    try:
        with FileLock(folder / "lock", timeout=0):
            return None
    except (Timeout, PermissionError):  # who may not write the file cannot try the lock, and believes the text
        return holding


def _read(path: Path) -> Holder | None:
    try:
        holding = Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # no file, or an empty one: whoever took the lock is about to write
    return holding if holding.lives() else None


def _begun(pid: int) -> str:
    """The process's time of birth in clock ticks since boot; "" where the system does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


class Stopping:
    """Whether this process was asked to stop, by SIGTERM."""

    asked = False


stopping = Stopping()


def check_owner(job: Job) -> None:
    """DataError for a work folder that another configuration has worked in last: log, answers and models are of one."""
    config, folder = job.config.name, job.config.workdir
    owner = next((run.config for run in reversed(RunLedger(folder).runs()) if run.config), config)
    if owner != config and not job.take_over:
        raise DataError(
            f"the work folder {folder} is that of the configuration {owner!r}: give {config!r} one of its own "
            "(or refresh with --take-over, if it was renamed)"
        )


def lasting_words(error: BaseException) -> str:
    """What files and Redis may have of an error: its type, with the words of errors of this program and of the system.
    Those of libraries may quote whatever these were given, and whoever is forgotten could not be found in them."""
    words = ""
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _PROGRAM:
        words = lasting(line_of(error))
    return f"{type(error).__name__}: {words}".rstrip(": ")


class Run:
    """A run under way. ``record`` is its line so far; with ``asks_later``, no language model is asked in it."""

    def __init__(self, job: Job, name: str) -> None:
        self.job = job
        self.asks_later = False
        self.record = RunRecord(run=new_run_id(), job=name, config=job.config.name, pid=os.getpid())
        self._ledger = RunLedger(job.config.workdir)
        self._started = time.time()
        self.record.started_at = self.record.finished_at = iso_time(self._started)

    @contextmanager
    def working(self) -> Iterator[Run]:
        """Hold the work folder for the run; at the end, however it ends, write its line. LockedError if it is held."""
        try:
            with exclusive(self.job.config.workdir, self.record.job):
                self._ledger.settle()
                check_owner(self.job)
                self.save()
                with self._outcome_noted():
                    yield self
        except BaseException as error:
            if self.record.status is RunStatus.RUNNING:  # it never began
                self._set_status(RunStatus.LOCKED if isinstance(error, LockedError) else RunStatus.FAILED)
                self.record.reasons = [lasting_words(error)]
                self._measure()
            raise

    @contextmanager
    def step(self, title: str) -> Iterator[Stopwatch]:
        """A titled step on the terminal, with its seconds in the ledger."""
        with step(title) as watch:
            yield watch
        if stopping.asked:  # the signal itself may get lost in an event loop that was just about to end
            raise KeyboardInterrupt
        seconds = self.record.stages
        seconds[title] = round(seconds.get(title, 0.0) + watch.seconds, 3)
        self.save()

    def computes_in(self, arithmetic: str) -> None:
        """The arithmetic of language models and encoders, for the terminal and the ledger."""
        self.record.arithmetic = arithmetic
        print(f"  arithmetic: {arithmetic}", flush=True)

    def left(self, reason: str) -> None:
        """Note a reason why something is left for the next run: this one is partial."""
        if lasting(reason) not in self.record.reasons:
            self.record.reasons.append(lasting(reason))

    def asked(
        self,
        account: Account,
        again: Mapping[str, int],
        bad: Mapping[str, int],
        faithfulness: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        """Note the account of the run's session with the language model so far; a run has one session."""
        self.record.llm = replace(account)
        self.record.asked_again, self.record.bad_answers = dict(again), dict(bad)
        self.record.faithfulness = {kind: dict(counts) for kind, counts in (faithfulness or {}).items()}
        self.save()

    def published(self, publication: Published) -> None:
        """Note the counts of a publication, and the spaces that it left alone."""
        self.record.release = publication.release if publication.switched else publication.live_before
        for name, count in publication.records.items():
            self.record.records[name] = {"written": count.written, "unchanged": count.unchanged, "bytes": count.size}
            print(f"  {name}: {count.written} written, {count.unchanged} unchanged", flush=True)
        for space in publication.held_back:
            print(f"  {space}: held since its rollback; `publish --return` lets it go", flush=True)

    def compared(self, publication: Published) -> None:
        """Note how the model that was trained last compares, and whether it is refused: this run is partial then."""
        for note in publication.notes:
            print(f"  model: {note}", flush=True)
        refused = publication.refused
        self.record.refused = "" if refused is None else refused.release
        if refused is not None:
            self.left(refusal_line(refused))

    def save(self) -> None:
        """Keep the line so far, for whoever comes next if this run is killed."""
        self._set_status(self.record.status)
        self._ledger.keep(self.record)

    @contextmanager
    def _outcome_noted(self) -> Iterator[None]:
        status = RunStatus.FAILED
        try:
            yield
            status = RunStatus.PARTIAL if self.record.reasons else RunStatus.DONE
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                status = RunStatus.INTERRUPTED
            self.record.reasons.append(lasting_words(error))
            raise
        finally:
            self._set_status(status)
            self._ledger.end(self.record)
            self._measure()

    def _set_status(self, status: RunStatus) -> None:
        """Bring the record up to date, as of now or of its end. There is no exit code while the run is at work."""
        record, now = self.record, time.time()
        record.status = status
        terminated = status is RunStatus.INTERRUPTED and stopping.asked
        record.exit_code = TERMINATED if terminated else EXIT_CODES.get(status)
        record.finished_at, record.seconds = iso_time(now), round(now - self._started, 3)
        record.bytes_written = sum(counts["bytes"] for counts in record.records.values())

    def _measure(self) -> None:
        if self.job.metrics is not None:
            from offline.jobs.prometheus import write

            try:
                write(self.job.metrics, self._ledger.runs(), self.record)
            except OSError as error:  # what was done is done; who watches will miss the file
                print(f"warning: no metrics in {self.job.metrics}: {error}", file=sys.stderr)
