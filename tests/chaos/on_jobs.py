"""A refresh is killed, meets another one or a full disk, and publishes while the service ranks."""

from __future__ import annotations

import contextlib
import http.client
import json
import multiprocessing
import os
import random
import resource
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from offline.child import child_python
from offline.cli.call import EXPECTED
from tests.chaos.on_files import PATIENT, is_live
from tests.chaos.rows import Outcome, row
from tests.chaos.stand import PREFIX, ROOT, Stand, TroubleError, eventually, url_of
from tests.offline.pipeline import LATER_MS, Pipeline, patched, pipeline
from tests.offline.test_kills import PRELOADED
from tests.service.test_surroundings import MAY_MOUNT, in_namespace

PART = "Jobs"
DISK = 128 << 20
FREE = tuple(kilobytes << 10 for kilobytes in (0, 4, 32, 128, 384, 512, 768, 1024, 1536, 2048))
"""Bytes that a full disk still has, so that it is full at different moments of a refresh."""


def installation(folder: Path, url: str, prefix: str) -> Pipeline:
    """An installation with events that wait in the stream."""
    small = pipeline(folder, url, prefix)
    small.stream(*(("u3", f"i{at}", 5.0, LATER_MS + at) for at in range(7)), ("newcomer", "i1", 4.0, LATER_MS))
    return small


@contextlib.contextmanager
def _as_a_job(small: Pipeline) -> Iterator[None]:
    tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        pytest.MonkeyPatch.context() as patch,
    ):
        patched(patch, small)
        yield


def attempt(small: Pipeline) -> tuple[dict[str, Any] | None, str]:
    """(ledger line, "") of a refresh, or (None, how it failed); of a failure that nobody foresaw that begins with
    "unexpected"."""
    with _as_a_job(small):
        try:
            return small.refresh(), ""
        except EXPECTED as error:
            return None, f"{type(error).__name__}: {error}"
        except Exception as error:  # noqa: BLE001 - the caller judges it
            return None, f"unexpected {type(error).__name__}: {error}"


def _attempt(small: Pipeline, answers: Connection, together: Barrier) -> None:
    together.wait()
    answers.send(attempt(small))


@dataclass
class Attempts:
    """Refreshes in processes of their own, which are forked from one that has imported everything."""

    def __post_init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)

    def at_once(self, small: Pipeline, count: int = 1) -> list[tuple[dict[str, Any] | None, str]]:
        """What came of so many that begin at the same moment, as of ``attempt``."""
        together = self._context.Barrier(count)
        pipes = [self._context.Pipe(duplex=False) for _ in range(count)]
        processes = [self._context.Process(target=_attempt, args=(small, sender, together)) for _, sender in pipes]
        for process in processes:
            process.start()
        ends: list[tuple[dict[str, Any] | None, str]] = [receiver.recv() for receiver, _ in pipes]
        for process in processes:
            process.join()
        return ends


@row(PART, "a refresh killed (SIGKILL) at 20 points of its way, and resumed")
def refresh_killed(stand: Stand) -> Outcome:
    return stand.tests("tests/offline/test_kills.py", slow=True)


@row(PART, "two refreshes at once in one work folder: one works, the other refuses, and what is published is as of one",
     short=True)  # fmt: skip
def two_refreshes(stand: Stand) -> Outcome:
    url = url_of(stand.valkey())
    small = installation(stand.folder / "two", url, "two")
    alone = installation(stand.folder / "alone", url, "alone")
    attempts = Attempts()
    ends = attempts.at_once(small, 2)
    ((entry, trouble),) = attempts.at_once(alone)
    missed = [f"alone: {trouble}"] if entry is None else []
    refusals = [trouble for entry, trouble in ends if entry is None]
    if len(refusals) != 1 or not refusals[0].startswith("LockedError: another job is at work"):
        missed.append(f"{len(refusals)} refused: {refusals}")
    if small.published() != alone.published():
        missed.append("what is published is not as of one refresh")
    if sorted(small.model.paid()) != sorted(alone.model.paid()):
        missed.append("answers of the language model were paid twice")
    return Outcome(missed=tuple(missed), remark="; ".join(text.partition(" in ")[0] for text in refusals))


@dataclass
class Readers:
    """Callers of what refreshes publish, whose scores nobody has computed by hand: an answer must be whole, in order
    and without a word. ``releases`` are those that answers were of."""

    port: int
    small: Pipeline
    answers: Counter[str] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)
    releases: set[str] = field(default_factory=set)

    def __enter__(self) -> Readers:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._read, args=(seed,)) for seed in range(3)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _read(self, seed: int) -> None:
        dice, log = random.Random(seed), self.small.data.log
        while not self._stop.wait(0.02):
            ids = dice.sample(log.item_ids, 10)
            body = {"user_id": dice.choice(log.user_ids), "candidates": [{"id": item} for item in ids]}
            client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            try:
                client.request("POST", "/v1/rank", json.dumps(body))
                self.answers[self._verdict(ids, json.loads(client.getresponse().read()))] += 1
            except (OSError, http.client.HTTPException) as error:
                self.answers[type(error).__name__] += 1
            finally:
                client.close()

    def _verdict(self, ids: list[str], document: dict[str, Any]) -> str:
        if "error" in document:
            return str(document["error"]["code"])
        self.releases.add(document["release"])
        self.words.update(document["degraded"])
        scores = [item["score"] for item in document["items"]]
        is_whole = sorted(item["id"] for item in document["items"]) == sorted(ids)
        return "well" if is_whole and scores == sorted(scores, reverse=True) else "wrong"


@row(PART, "three refreshes publish while the service ranks, each with interactions that came in since")
def refreshes_while_ranking(stand: Stand) -> Outcome:
    url = url_of(stand.valkey())
    small = installation(stand.folder / "live", url, PREFIX)
    attempts = Attempts()
    ((entry, trouble),) = attempts.at_once(small)
    if entry is None:
        raise TroubleError(trouble)
    service = stand.serve(url, artifacts=small.folder / "artifacts", **PATIENT)
    published = [entry["release"]]
    with Readers(service.port, small) as readers:
        for turn in range(3):
            small.stream(*((f"u{at}", f"i{at}", 5.0, LATER_MS + 1000 * (turn + 1) + at) for at in range(20)))
            ((entry, trouble),) = attempts.at_once(small)
            if entry is None:
                raise TroubleError(trouble)
            published.append(entry["release"])
            eventually(lambda: is_live(service, published[-1]), "what was published is not served")
    foreign = readers.releases - set(published)
    return Outcome(
        requests=readers.answers.total(),
        wrong=readers.answers["wrong"],
        failed=readers.answers.total() - readers.answers["well"] - readers.answers["wrong"],
        degraded=tuple(readers.words),
        missed=(f"answers of {', '.join(foreign)}",) if foreign else (),
        remark=f"{len(set(published))} releases; scores are nobody's to compute, their order alone is looked at",
    )


@row(PART, f"the disk of a work folder is full at {len(FREE)} points of a refresh; then there is room again")
def disk_full(stand: Stand) -> Outcome:
    url = url_of(stand.valkey())
    disk = stand.folder / "disk"
    disk.mkdir()
    script = f'mount -t tmpfs -o size={DISK} none {disk} || exit 77\nexec "$@"'
    call = f"from tests.chaos.on_jobs import refresh_on_full_disk as it; it({str(disk)!r}, {url!r})"
    command = [*(in_namespace(script) if MAY_MOUNT else ()), *child_python("-c", call)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        return Outcome(missed=(f"ended with {ended.returncode}: {ended.stderr[-2000:]}",))
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    failures = [line["trouble"] for line in lines if line["trouble"]]
    missed = [line["missed"] for line in lines if line["missed"]]
    if not failures:
        missed.append("the disk was never full while a refresh wrote")
    how = "" if MAY_MOUNT else "; files could grow no longer instead (RLIMIT_FSIZE), for want of a mount namespace"
    messages = "; ".join(dict.fromkeys(text.partition(":")[0] for text in failures))
    paid = sorted(line["paid"] for line in lines)
    return Outcome(
        missed=tuple(missed),
        remark=f"{len(failures)} of {len(lines)} refreshes failed ({messages}), after {paid[0]} to {paid[-1]} answers "
        f"of the language model; each was resumed{how}",
    )


def refresh_on_full_disk(disk: str, url: str) -> None:
    """A line of JSON for each number of FREE bytes: how the refresh failed on a disk that has only so many left, and
    what was wrong about that or about the one that followed. In a process of its own."""
    folder = Path(disk)
    whole = installation(folder / "whole", url, "whole")
    entry, trouble = attempt(whole)
    assert entry is not None, trouble
    right = whole.published()
    for free in FREE:
        small = installation(folder / f"free-{free}", url, f"free-{free}")
        with _only(free, folder):
            entry, trouble = attempt(small)
        missed = ""
        if trouble.startswith("unexpected"):
            missed = f"{free} bytes: {trouble}"
        paid = len(small.model.paid())
        again, why = attempt(small)
        if again is None:
            missed = f"{free} bytes, resumed: {why}"
        elif small.published() != right:
            missed = f"{free} bytes, resumed: not the same is published"
        print(json.dumps({"free": free, "trouble": trouble, "missed": missed, "paid": paid}), flush=True)


@contextlib.contextmanager
def _only(free: int, folder: Path) -> Iterator[None]:
    """Leave so many bytes on a disk of its own; elsewhere let no file grow longer."""
    if folder.is_mount():
        room = os.statvfs(folder)
        filling = folder / "filling"
        with filling.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, room.f_bavail * room.f_frsize - free))
        yield
        filling.unlink()
    else:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
        yield
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
