"""The ladder that a request goes down instead of failing: its steps, and the errors by which a port asks for one."""

from __future__ import annotations

from collections.abc import Set
from enum import StrEnum


class Degraded(StrEnum):
    """Steps of the ladder, in the order in which ``degraded`` reports them."""

    NOT_PINNED = "not_pinned"
    """The arm names a release that is not loaded, and the live one answered."""

    NO_POINTER = "no_pointer"
    """Redis names no release any more: it was emptied, or is another one. The loaded release goes on answering; what
    was stored of users is most likely gone too."""

    NO_RETRIEVAL = "no_retrieval"
    """An index of items could not be searched, and popular items took the place of those near the user."""

    NO_RERANK = "no_rerank"
    """The head was to be reranked and keeps the model's order; the next five say why."""

    RERANK_OFF = "rerank_off"
    """There is no reranker, or it does not answer its canaries as it should."""

    RERANK_BUSY = "rerank_busy"
    """All slots for requests that are being reranked are taken."""

    RERANK_LATE = "rerank_late"
    """There was no verdict before the deadline."""

    RERANK_FAILED = "rerank_failed"
    """There was an error in place of a verdict, or something that is no order of the head."""

    RERANK_FLAT = "rerank_flat"
    """Every candidate got the same verdict."""

    NO_KNOWLEDGE = "no_knowledge"
    """The user's knowledge could not be read, or a record of it was refused. Nothing stored is no reason to say it, and
    the user's other records and the knowledge of the items, which lies in memory, may still have been used."""

    NO_FEATURES = "no_features"
    """The user's history or profile could not be read, or a record of them was refused."""

    PRIOR_ORDER = "prior_order"
    """The model gave no scores; the items' smoothed shares of positive interactions took their place."""

    NO_EXPLAIN = "no_explain"
    """The scores without knowledge that the request asked for are not there."""


def reported(steps: Set[Degraded]) -> tuple[Degraded, ...]:
    """Steps in the order of the ladder."""
    return tuple(step for step in Degraded if step in steps) if steps else ()


class FeatureReadError(Exception):
    """The stored features of a user could not be read in time."""


class ScoringError(Exception):
    """The model failed or gave scores that are not finite numbers."""


class RerankError(Exception):
    """The reranker gave no verdict; ``step`` says why."""

    def __init__(self, message: str, step: Degraded = Degraded.RERANK_FAILED) -> None:
        super().__init__(message)
        self.step = step
