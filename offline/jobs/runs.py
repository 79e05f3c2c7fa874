"""One run of a job: how it ends, and its line in the ledger.

The ledger (``ledger.jsonl`` in the work folder) has one JSON line per run, oldest first. While a run is at work it
keeps its line so far in ``run.json``; whoever comes next and finds that file writes the line of a run that was killed.
What a killed run asked of the language model is exact, because the answers' own transactions hold it
(offline/llm/runs.py).
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from offline.data.catalogue import DataError
from offline.data.files import read_json, write_json
from offline.jobs.lock import LockedError, exclusive
from offline.jobs.steps import Job, Stopwatch, stage
from offline.llm.ledger import Ledger
from offline.llm.runs import history
from offline.publish.publish import Published

Status = Literal["running", "done", "partial", "failed", "locked", "interrupted", "killed"]

EXIT_CODES: Mapping[Status, int] = {"done": 0, "failed": 1, "partial": 3, "locked": 4, "interrupted": 130}
"""2 is a wrong call: an unknown option, or a configuration that is not understood."""
TERMINATED = 143
"""In place of 130 after SIGTERM."""

LEDGER = "ledger.jsonl"
CURRENT = "run.json"
TOTALS = ("calls", "paid", "failures", "prompt_tokens", "completion_tokens", "cost")
_TAIL_BYTES = 2_000_000


class Stopping:
    """Whether this process was asked to stop, by SIGTERM."""

    asked = False


stopping = Stopping()

Entry = dict[str, Any]
"""One line of the ledger; see ``Run`` for the names."""


@dataclass(slots=True)
class Run:
    """What a run did so far. All of it is written to the ledger, in these names.

    ``reasons`` say what is left for the next run, or what went wrong. ``stages``: seconds by stage. ``llm``: counters
    as in offline/llm/ledger.py, over all the run asked. ``arithmetic``: of models in the run's own process, and why;
    empty if no producer ran. ``asked_again`` and ``bad_answers``: first answers, and second
    ones, by what was wrong with them. ``producers``: state and counts by producer. ``records``: written, unchanged and
    bytes by kind of record. ``release`` is the live one after the run. ``totals`` sums up all runs of the ledger.
    """

    job: Job
    name: str
    id: str = field(default_factory=lambda: f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(4)}")
    status: Status = "running"
    reasons: list[str] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    llm: dict[str, Any] = field(default_factory=dict)
    arithmetic: str = ""
    asked_again: dict[str, int] = field(default_factory=dict)
    bad_answers: dict[str, int] = field(default_factory=dict)
    producers: dict[str, Entry] = field(default_factory=dict)
    records: dict[str, dict[str, int]] = field(default_factory=dict)
    release: str | None = None
    started: float = field(default_factory=time.time)
    finished: float | None = None
    totals: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def working(self) -> Iterator[Run]:
        """Hold the work folder for the run; at the end, however it ends, write its line. LockedError if it is held."""
        try:
            with exclusive(self.job.config.workdir, self.name):
                settle(self.job)
                self.save()
                with self._judged():
                    yield self
        except BaseException as error:
            if self.status == "running":  # it never began
                self.status = "locked" if isinstance(error, LockedError) else "failed"
                self.reasons = [str(error)]
                self._measure()
            raise

    @contextmanager
    def stage(self, title: str) -> Iterator[Stopwatch]:
        """A titled stage on the terminal, with its seconds in the ledger."""
        with stage(title) as watch:
            yield watch
        if stopping.asked:  # the signal itself may get lost in an event loop that was just about to end
            raise KeyboardInterrupt
        self.stages[title] = round(self.stages.get(title, 0.0) + watch.seconds, 3)
        self.save()

    def computes_in(self, arithmetic: str) -> None:
        """The arithmetic of language models and encoders, for the terminal and the ledger."""
        self.arithmetic = arithmetic
        print(f"  arithmetic: {arithmetic}", flush=True)

    def left(self, reason: str) -> None:
        """Something is left for the next run: this one is partial."""
        if reason not in self.reasons:
            self.reasons.append(reason)

    def asked(self, ledger: Ledger, again: Mapping[str, int], bad: Mapping[str, int]) -> None:
        """What the run asked of the language model so far; a run asks through one session."""
        kept = (
            "run_id",
            "model_id",
            "prompts",
            "cache_hits",
            "paid",
            "calls",
            "retries",
            "failures",
            "refused",
            "absent",
        )
        record = asdict(ledger)
        self.llm = {name: record[name] for name in kept}
        self.llm |= {"prompt_tokens": ledger.prompt_tokens, "completion_tokens": ledger.completion_tokens}
        self.llm |= {"seconds": round(ledger.seconds, 3), "cost": round(ledger.cost, 6)}
        self.asked_again, self.bad_answers = dict(again), dict(bad)
        self.save()

    @property
    def exit_code(self) -> int | None:
        """What the process ends with; None while it runs, and of a run that was killed."""
        return TERMINATED if self.status == "interrupted" and stopping.asked else EXIT_CODES.get(self.status)

    def published(self, what: Published) -> None:
        """What a publication wrote, and what it left alone."""
        self.release = what.release if what.switched else what.live_before
        for name, count in what.records.items():
            self.records[name] = {"written": count.written, "unchanged": count.unchanged, "bytes": count.size}
            print(f"  {name}: {count.written} written, {count.unchanged} unchanged", flush=True)
        for space in what.held:
            print(f"  {space}: held since its rollback; `publish --return` lets it go", flush=True)

    def entry(self) -> Entry:
        """The run's line in the ledger, as of now or of its end."""
        finished = self.finished or time.time()
        return {
            "run": self.id,
            "job": self.name,
            "config": self.job.config.name,
            "status": self.status,
            "exit_code": self.exit_code,
            "reasons": self.reasons,
            "started_at": _iso(self.started),
            "finished_at": _iso(finished),
            "seconds": round(finished - self.started, 3),
            "stages": self.stages,
            "llm": self.llm,
            "arithmetic": self.arithmetic,
            "asked_again": self.asked_again,
            "bad_answers": self.bad_answers,
            "producers": self.producers,
            "records": self.records,
            "bytes_written": sum(one["bytes"] for one in self.records.values()),
            "release": self.release,
            "totals": self.totals,
            "pid": os.getpid(),
        }

    def save(self) -> None:
        """Keep the line so far, for whoever comes next if this run is killed."""
        write_json(self.job.config.workdir / CURRENT, self.entry())

    @contextmanager
    def _judged(self) -> Iterator[None]:
        try:
            yield
            self.status = "partial" if self.reasons else "done"
        except BaseException as error:
            self.status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            self.reasons.append(f"{type(error).__name__}: {error}".rstrip(": "))
            raise
        finally:
            self.finished = time.time()
            self.totals = append(self.job.config.workdir, self.entry())["totals"]
            (self.job.config.workdir / CURRENT).unlink(missing_ok=True)
            self._measure()

    def _measure(self) -> None:
        if self.job.metrics is not None:
            from offline.jobs.prometheus import write

            try:
                write(self.job.metrics, read_runs(self.job.config.workdir), self.entry())
            except OSError as error:  # what was done is done; who watches will miss the file
                print(f"warning: no metrics in {self.job.metrics}: {error}", file=sys.stderr)


def settle(job: Job) -> None:
    """Write the ledger line of a run that was killed, if there is one. For the holder of the work folder."""
    killed = lost_run(job)
    if killed is not None and killed["run"] not in {one["run"] for one in read_runs(job.config.workdir)}:
        append(job.config.workdir, killed)
    (job.config.workdir / CURRENT).unlink(missing_ok=True)


def lost_run(job: Job) -> Entry | None:
    """The line of a run that left no line, with what it is known to have asked; it was killed, or it is at work."""
    try:
        found = read_json(job.config.workdir / CURRENT)
    except DataError:  # absent, or damaged, which must not keep every later run from working
        return None
    if not isinstance(found, dict) or not isinstance(found.get("llm"), dict):
        return None
    entry: Entry = {**found, "status": "killed", "exit_code": None}
    for one in history(job.llm) if entry["llm"].get("run_id") else []:
        if one.run_id == entry["llm"]["run_id"]:
            counted = {name: value for name, value in asdict(one).items() if name in entry["llm"]}
            entry["llm"] = {**counted, "cost": round(one.cost, 6)}
    return entry


def read_runs(workdir: Path) -> list[Entry]:
    """Runs of the ledger, oldest first, as far as its last two megabytes go. Damaged lines are passed over."""
    path = workdir / LEDGER
    if not path.is_file():
        return []
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        lines = file.read().splitlines()
    runs = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:  # half a line, after a power cut or at the start of the tail
            continue
        if isinstance(entry, dict) and {"run", "job", "status"} <= entry.keys():
            runs.append(entry)
    return runs


def append(workdir: Path, entry: Entry) -> Entry:
    """Add one line, in one write, with totals that go on from the last one's. For the holder of the folder."""
    earlier: dict[str, float] = next((one["totals"] for one in reversed(read_runs(workdir)) if "totals" in one), {})
    spent = {"runs": 1, "bytes_written": entry["bytes_written"], **{name: entry["llm"].get(name, 0) for name in TOTALS}}
    entry = {**entry, "totals": {name: round(earlier.get(name, 0) + more, 6) for name, more in spent.items()}}
    descriptor = os.open(workdir / LEDGER, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        # a power cut can leave half a line; it must not spoil this one too
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, b"\n" * torn + json.dumps(entry, ensure_ascii=False).encode() + b"\n")
    finally:
        os.close(descriptor)
    return entry


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
