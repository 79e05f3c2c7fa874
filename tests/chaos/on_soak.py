"""Half an hour of mixed load: whether memory, descriptors or threads of the service grow."""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.serving.processes import tree
from tests.chaos.on_files import OFFSET, PATIENT, is_live, publish_other
from tests.chaos.rows import Goal, Outcome, row
from tests.chaos.stand import Service, Stand, eventually, url_of
from tests.service.tiny import Publisher, TinyItem

PART = "Soak"
SECONDS = float(os.environ.get("SOAK_SECONDS", "1800"))
EVERY_SECONDS = 5.0
SWITCH_SECONDS = 60.0
WARM_SHARE = 0.2
"""Part of the time in which memory may grow: pools, caches and free lists fill."""

MOST_MB_PER_MINUTE = 1.0
MOST_DESCRIPTORS, MOST_THREADS = 16, 8
"""Growth in all that is none: pools of threads and of connections to Redis fill as they are needed. A leak of one with
each switch is beyond it in half an hour."""

CANDIDATES = 50
Doubles = np.ndarray[Any, np.dtype[np.float64]]
MANY = tuple(TinyItem(f"item-{at}", rating=1.0 + 4.0 * at / 200) for at in range(200))


@dataclass(frozen=True, slots=True)
class Sample:
    """Of all processes of a service together: memory in MB (PSS; RSS), descriptors, threads; at so many minutes."""

    minutes: float
    pss: float
    rss: float
    descriptors: int
    threads: int


@dataclass
class Sampler:
    """Samples of a process and its descendants, from /proc, until the context is left."""

    pid: int
    samples: list[Sample] = field(default_factory=list)

    def take(self, began: float) -> None:
        pss = rss = descriptors = threads = 0
        for pid in tree(self.pid):
            with suppress(OSError):
                rollup = _fields(Path(f"/proc/{pid}/smaps_rollup"))
                status = _fields(Path(f"/proc/{pid}/status"))
                open_files = len(os.listdir(f"/proc/{pid}/fd"))
                pss, rss = pss + rollup["Pss"], rss + rollup["Rss"]
                descriptors, threads = descriptors + open_files, threads + status["Threads"]
        minutes = (time.monotonic() - began) / 60
        self.samples.append(Sample(minutes, pss / 1024, rss / 1024, descriptors, threads))


def _fields(path: Path) -> dict[str, int]:
    """Numbers of a file of ``name: number`` lines."""
    cells = (line.replace(":", " ").split() for line in path.read_text().splitlines())
    return {cell[0]: int(cell[1]) for cell in cells if len(cell) > 1 and cell[1].isdigit()}


def slope(minutes: Doubles, values: Doubles) -> tuple[float, float]:
    """Growth per minute by least squares, and half of its 95 % interval. Neighbouring samples are alike, so the
    interval counts residuals for as many independent ones as their correlation with the next one leaves."""
    centered = minutes - minutes.mean()
    spread = float((centered**2).sum())
    per_minute = float((centered * values).sum()) / spread
    rest = values - values.mean() - per_minute * centered
    variance = float((rest**2).sum()) / max(1, len(rest) - 2)
    alike = float((rest[1:] * rest[:-1]).sum() / (rest**2).sum()) if rest.any() else 0.0
    alike = min(0.99, max(0.0, alike))
    return per_minute, 1.96 * (variance / spread * (1 + alike) / (1 - alike)) ** 0.5


@dataclass
class Strangers:
    """Callers that are no model of good behaviour, and tellers of interactions, until the context is left."""

    port: int
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._stop = threading.Event()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        works = {"cancelled": self._cancel, "over new connections": self._connect, "interactions": self._tell}
        threads = [threading.Thread(target=self._work, args=each) for each in works.items()]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _work(self, name: str, once: Callable[[random.Random], None]) -> None:
        dice = random.Random(name)
        while not self._stop.wait(0.05):
            try:
                once(dice)
                self.counts[name] += 1
            except (OSError, http.client.HTTPException):
                self.counts["failed"] += 1

    def _cancel(self, dice: random.Random) -> None:
        """A request for 50 candidates that nobody waits for."""
        body = json.dumps({"user_id": "user-0", "candidates": [{"id": item.id} for item in MANY[:CANDIDATES]]}).encode()
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as client:
            head = f"POST /v1/rank HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            client.sendall((head + body)[: dice.choice((40, len(head) + 20, len(head) + len(body)))])
            time.sleep(dice.random() * 0.005)

    def _connect(self, dice: random.Random) -> None:
        """A look over a connection of its own."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        client.request("GET", dice.choice(("/healthz", "/v1/status", "/metrics")))
        client.getresponse().read()
        client.close()

    def _tell(self, dice: random.Random) -> None:
        """An interaction of one of a thousand users that are no callers."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        event = {"user_id": f"teller-{dice.randrange(1000)}", "item_id": dice.choice(MANY).id, "value": 5}
        client.request("POST", "/v1/feedback", json.dumps(event))
        client.getresponse().read()
        client.close()


@row(PART, f"{SECONDS / 60:g} minutes of ranking {CANDIDATES} candidates, interactions, a switch each minute, requests "
     "cut off, new connections", Goal(refused=None))  # fmt: skip
def soak(stand: Stand) -> Outcome:
    server = stand.valkey("--maxmemory", "512mb")
    publisher = stand.publisher(server.client)
    _publish_many(publisher)
    stand.store_users(publisher)
    service = stand.serve(url_of(server), **PATIENT)
    strangers, sampler = Strangers(service.port), Sampler(service.popen.pid)
    traffic = stand.traffic(service, items=MANY, candidates=CANDIDATES, offsets=(0.0, OFFSET))
    began = time.monotonic()
    with strangers.at_work(), traffic.trouble():
        switches = _sampled(stand, publisher, service, sampler, began)
    traffic.settle()
    samples = [sample for sample in sampler.samples if sample.minutes >= WARM_SHARE * SECONDS / 60]
    remark, missed = growth(samples)
    did = ", ".join(f"{count:,} {name}" for name, count in strangers.counts.items() if name != "failed")
    if strangers.counts["failed"]:
        missed = (*missed, f"{strangers.counts['failed']} other calls failed")
    return traffic.outcome(missed=missed, remark=f"{remark}; {switches} switches, {did}")


def _publish_many(publisher: Publisher) -> None:
    publisher.publish("r1", items=MANY)
    publish_other(publisher, items=MANY, switch=False)


def _sampled(stand: Stand, publisher: Publisher, service: Service, sampler: Sampler, began: float) -> int:
    """Sample, and switch, until the time is over; the number of switches."""
    switches = 0
    while (passed := time.monotonic() - began) < SECONDS:
        sampler.take(began)
        if passed >= (switches + 1) * SWITCH_SECONDS:
            switches += 1
            release = ("r1", "r2")[switches % 2]
            publisher.redis.set(publisher.keys.live, release)
            eventually(lambda of=release: is_live(service, of), f"{release} is not served")  # type: ignore[misc]
        time.sleep(max(0.0, EVERY_SECONDS - (time.monotonic() - began - passed)))
    return switches


def growth(samples: list[Sample]) -> tuple[str, tuple[str, ...]]:
    """What the numbers of these samples do, in words, and which of them may grow beyond their goal: the upper end of
    the interval counts, so that a soak too short to tell misses it."""
    minutes = np.array([sample.minutes for sample in samples])
    lines, missed = [], []
    span = float(minutes[-1] - minutes[0])
    for name, unit, most in (
        ("pss", " MB", MOST_MB_PER_MINUTE),
        ("rss", " MB", MOST_MB_PER_MINUTE),
        ("descriptors", "", MOST_DESCRIPTORS / span),
        ("threads", "", MOST_THREADS / span),
    ):
        values = np.array([getattr(sample, name) for sample in samples], np.float64)
        per_minute, half = slope(minutes, values)
        lines.append(f"{name} {np.median(values):.0f}{unit}, {per_minute:+.3f} ± {half:.3f} a minute")
        if per_minute + half > most:
            missed.append(f"{name} may grow by {per_minute + half:.2f}{unit} a minute, goal {most:.2f}")
    return f"{len(samples)} samples: {', '.join(lines)}", tuple(missed)
