"""Metrics of the service, on a Prometheus registry of its own.

Knows metric names and labels, all of bounded cardinality: no label ever holds a user, an item or a request.
"""

from __future__ import annotations

import os
import time
from collections import Counter as Counter_
from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which prometheus_client knows that several processes count together, and where."""

_ANSWERS = ""
"""Stands among the steps for all answers."""

_STAGE_BUCKETS = (
    0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0,
)  # fmt: skip


class LastMinute:
    """Ranked answers of the last sixty seconds, and how many of them took each step of the ladder."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds: deque[tuple[int, Counter_[str]]] = deque()

    def note(self, steps: Iterable[str]) -> None:
        """Count an answer."""
        now = int(self._clock())
        if not self._seconds or self._seconds[-1][0] != now:
            self._forget(now)
            self._seconds.append((now, Counter_()))
        counted = self._seconds[-1][1]
        counted[_ANSWERS] += 1
        counted.update(steps)

    def counts(self) -> tuple[int, dict[str, int]]:
        """Number of answers, and of those that took each step."""
        self._forget(int(self._clock()))
        total: Counter_[str] = Counter_()
        for _, counted in self._seconds:
            total.update(counted)
        answers = total.pop(_ANSWERS, 0)
        return answers, dict(total)

    def _forget(self, now: int) -> None:
        while self._seconds and self._seconds[0][0] <= now - 60:
            self._seconds.popleft()


class Telemetry:
    """Every metric of one service instance. Counters are incremented where the thing happens."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests answered", "route", "status")
        self.connections_refused = self._counter("connections_refused", "Connections beyond the limit")
        self.at_work = self._gauge("requests_at_work", "Requests that are worked on", mode="livesum")
        self.at_work_limit = self._gauge("requests_at_work_limit", "Requests that may be worked on", mode="livesum")
        self.connections = self._gauge("connections", "Open connections", mode="livesum")
        self.stage_seconds = Histogram(
            "lorank_stage_seconds", "Time per stage of a ranked request", ["stage"],
            buckets=_STAGE_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.degraded = self._counter("degraded", "Ladder steps taken by ranked requests", "word")
        self.unknown_users = self._counter("unknown_users", "Ranked requests of users nothing is stored about")
        self.missing_units = self._counter("missing_units", "Requests of nobody: without a unit, or of null; not split")
        self.retrieved = self._counter("retrieved_candidates", "Candidates that were found for a request", "source")
        self.rerank_gated = self._counter("rerank_gated", "Heads that the reranker was not asked about", "reason")
        self.unknown_candidates = self._counter("unknown_candidates", "Candidates that the item table does not hold")
        self.duplicate_candidates = self._counter("duplicate_candidates", "Candidates dropped because they repeat")
        self.knowledge = self._counter("knowledge_records", "Knowledge records consulted", "state")
        self.refused_records = self._counter("refused_records", "Stored records that must not be used", "kind")
        self.exposures_written = self._counter("exposures_written", "Exposures acknowledged by Redis")
        self.exposures_dropped = self._counter("exposures_dropped", "Exposures lost", "reason")
        self.arms_not_kept = self._counter("arms_not_kept", "Exposures whose unit's arm Redis refused to keep")
        self.shadows_skipped = self._counter(
            "shadows_skipped", "Exposures that went without the shadow scores asked for"
        )
        self.interactions = self._counter("interactions", "Interactions accepted", "type")
        self.feedback_ignored = self._counter("feedback_ignored", "Events without effect on rankings", "reason")
        self.releases_refused = self._counter("releases_refused", "Attempts to load a release that were refused")
        self.release_swap_seconds = self._gauge(
            "release_swap_seconds", "Time the last release took to load and warm beside the live one"
        )
        self.release_info = self._gauge(
            "release_info", "1 for the release that is served", "release", "model", "version"
        )
        self._served: Gauge | None = None
        self.last_minute = LastMinute()

        # What every request touches, looked up once: a label costs more than what it counts.
        self.stages = {
            name: self.stage_seconds.labels(name)
            for name in ("queue", "features", "retrieve", "score", "rerank", "total")
        }
        self.knowledge_states = {name: self.knowledge.labels(name) for name in ("fresh", "stale", "missing")}

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"lorank_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str, mode: Literal["livemax", "livesum"] = "livemax") -> Gauge:
        return Gauge(f"lorank_{name}", text, labels, registry=self.registry, multiprocess_mode=mode)

    def served(self, release: str, model: str, version: str) -> None:
        """Make ``release`` the only one whose info metric is present, or not 0 where several processes count."""
        if METRICS_FOLDER not in os.environ:
            self.release_info.clear()
        elif self._served is not None:
            self._served.set(0)
        self._served = self.release_info.labels(release, model, version)
        self._served.set(1)

    def exposition(self) -> bytes:
        """All metrics in the Prometheus text format, of all processes of the service."""
        folder = os.environ.get(METRICS_FOLDER)
        if folder is None:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together, folder)  # type: ignore[no-untyped-call]
        return generate_latest(together)
