"""The head of a list, put in order by a language model's verdict on each candidate (ReLLa, arXiv 2308.11131).

Knows prompts, calibration and when asking is worth it. Does not know HTTP: ``server`` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from models.contract.arrays import IntArray
from models.contract.leaving import Outlet
from models.contract.prompts import PromptParts, Rated
from models.contract.rerank_items import RerankItems
from models.contract.reranker import FILE, ITEMS_FILE, RerankerManifest, blend, calibrated, log_odds
from service.ranking.deadline import Deadline
from service.ranking.degraded import Degraded, RerankError
from service.ranking.types import Head
from service.reranking.server import ModelServer
from service.reranking.watch import CanaryWatch
from service.telemetry import Telemetry

RESERVE_SECONDS = 0.005
"""Left of the deadline when the model is given up: the answer has still to be made."""

FLAT = 1e-4
"""Probabilities so close together say nothing."""


@dataclass(frozen=True, slots=True)
class Gates:
    """When asking is worth it. ``slots``: heads that are asked about at once. ``least_seconds``: what a verdict takes
    at least. ``margin``: log-odds between the first and the last of the head beyond which the order is clear anyway."""

    slots: int
    least_seconds: float
    margin: float | None = None


class Gate(StrEnum):
    """Reasons not to ask, as they are counted."""

    UNKNOWN = "unknown"
    WEIGHT = "weight"
    HISTORY = "history"
    MARGIN = "margin"


@dataclass(eq=False)
class VllmReranker:
    """The port ``Reranker``."""

    server: ModelServer
    manifest: RerankerManifest
    items: RerankItems
    watch: CanaryWatch
    gates: Gates
    telemetry: Telemetry
    outlet: Outlet | None = None

    def __post_init__(self) -> None:
        self._free = self.gates.slots

    @property
    def description(self) -> dict[str, Any]:
        """For people."""
        manifest = self.manifest
        return manifest.model_dump(include={"name", "model", "weight", "band", "fitted_to", "metrics"}) | {
            "history": manifest.prompt.history,
            "selection": manifest.prompt.selection,
            "slots": self.gates.slots,
            "slots_free": self._free,
            "prompts": None
            if self.outlet is None
            else {"go_to": self.outlet.place, "carry": None if manifest.carried is None else sorted(manifest.carried)},
        }

    async def rerank(self, head: Head, deadline: Deadline) -> Sequence[int]:
        """See the port."""
        rows = self.items.rows_of(head.ids)
        known = np.flatnonzero(rows >= 0)
        weight = self.manifest.weight if head.weight is None else head.weight
        if gate := self._gate(head, known, weight):
            self.telemetry.rerank_gated.labels(gate).inc()
            return range(len(head.ids))
        if self.watch.off:
            raise RerankError(f"the reranker is off: {self.watch.off}", Degraded.RERANK_OFF)
        seconds = deadline.remaining() - RESERVE_SECONDS
        if seconds < self.gates.least_seconds:
            raise RerankError("too little time is left", Degraded.RERANK_LATE)
        if self._free == 0:
            raise RerankError("all slots are taken", Degraded.RERANK_BUSY)
        self._free -= 1
        try:
            async with asyncio.timeout(seconds):
                verdict = await self.server.probabilities(self._prompts(head, rows[known]), self.manifest.label_ids)
        except TimeoutError as error:
            self.watch.failed()
            raise RerankError("no verdict in time", Degraded.RERANK_LATE) from error
        except RerankError:
            self.watch.failed()
            raise
        finally:
            self._free += 1
        self.watch.answered()
        if np.ptp(verdict) < FLAT:
            raise RerankError(f"every candidate got {verdict[0]:.4f}", Degraded.RERANK_FLAT)
        scores = head.scores.copy()  # what the model was not told about keeps its score
        scores[known] = blend(scores[known], calibrated(self.manifest.calibration, verdict), weight)
        return [int(at) for at in np.argsort(-scores, kind="stable")]

    def _gate(self, head: Head, known: IntArray, weight: float) -> Gate | None:
        """Why there is no need to ask; None if there is."""
        if len(known) < 2:
            return Gate.UNKNOWN
        if weight == 0:
            return Gate.WEIGHT
        if head.forced:
            return None
        if not self.manifest.mixes(len(head.user.events)):
            return Gate.HISTORY
        spread = np.ptp(log_odds(head.scores))
        return Gate.MARGIN if self.gates.margin is not None and spread > self.gates.margin else None

    def _prompts(self, head: Head, rows: IntArray) -> list[PromptParts]:
        """Prompts, one for each candidate, given by its row."""
        prompt, items = self.manifest.prompt, self.items
        seen = items.rows_of_hashes(head.user.events["item"])
        events, values = seen[seen >= 0], head.user.events["value"][seen >= 0]
        prompts = []
        for row in rows.tolist():
            at = prompt.chosen(items.vectors[row], items.vectors[events])
            history = [Rated(items.names[events[event]], float(values[event])) for event in at.tolist()]
            prompts.append(prompt.parts(head.user.features, history, items.texts[row]))
        return prompts


Tuned = tuple[RerankerManifest, RerankItems]


def read_reranker(folder: Path) -> Tuned:
    """The reranker in a folder of ``tune-reranker``'s. RerankerError if it is not understood; OSError."""
    manifest = RerankerManifest.from_json((folder / FILE).read_bytes())
    return manifest, RerankItems.unpack((folder / ITEMS_FILE).read_bytes(), manifest.items)
