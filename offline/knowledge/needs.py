"""What each producer needs before it can make its frozen parts, as far as it can be told before a prompt is asked.

Counts are upper bounds: as if every text came and could be used. What is missing by them is missing for certain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import ceil

import numpy as np

from models.contract.arrays import BoolArray
from models.contract.schema import FeatureSchema
from offline.knowledge import groups
from offline.knowledge.config import KnowledgeConfig
from offline.knowledge.knowledge_texts import Domain, closing
from offline.knowledge.liber.partitions import Partitions
from offline.knowledge.marc.pairs import training_pairs

LEAST_TEXTS = 2
"""Texts that tell a direction apart, at least: n of them fill n - 1 dimensions, and the others stay zero."""
LEAST_LATENT = 8
"""Vectors that AutoGraph's latent factors of one side are fitted on, at least."""
LEAST_HELD_OUT = 64
"""Pairs that say when the training of MARC's compression stops, at least."""

_SIDES = {
    "text": {"item"},
    "liber": {"user"},
    "autograph": {"user", "item"},
    "marc": {"user", "item"},
    "groups": {"user", "item"},
    "numbers": {"item"},
}


def shape_fault(name: str, config: KnowledgeConfig, schema: FeatureSchema) -> str:
    """An objection to the shape in which a schema lists the knowledge of the producer ``name``; "" without any."""
    specs = [spec for spec in schema.knowledge if spec.name == name]
    sides, dims = {spec.side for spec in specs}, {spec.dim for spec in specs}
    if sides != _SIDES[name] and name != "groups":  # which may be of one side alone
        of = {"user": "users", "item": "items"}
        return f"makes knowledge of {' and '.join(of[side] for side in sorted(_SIDES[name]))}: list just that"
    if name == "autograph" and dims != {config.autograph.network.dim}:
        return f"needs dim = {config.autograph.network.dim} on both sides, as knowledge.autograph.network.dim says"
    if name == "marc" and (len(dims) > 1 or min(dims) % 8):
        return "needs the same dim on both sides, a multiple of 8"
    if name == "liber" and config.liber.shift and min(dims) < 2:
        return "needs a dim of at least 2, for summaries and shifts"
    if name == "numbers" and dims != {config.numbers.dim}:
        count, each = len(config.numbers.questions), " and the spread of each" if config.numbers.spread else ""
        return f"needs dim = {config.numbers.dim}: {count} questions (knowledge.numbers.questions){each}"
    return ""


@dataclass(frozen=True)
class Supply:
    """The material of a data set for frozen parts: what lies before the log row ``trained_rows``, and which items
    [items] have a text or may get one."""

    domain: Domain
    trained_rows: int
    described: BoolArray

    @cached_property
    def partitions(self) -> Partitions:
        return self.domain.partitions()

    @cached_property
    def early(self) -> BoolArray:
        """[P] whether a partition closed within the training period."""
        return np.asarray(self.partitions.closed_at < self.trained_rows, np.bool_)

    def unmet(self, name: str) -> str:
        """What the producer ``name`` lacks, after "needs"; "" if nothing is known to be missing."""
        return "; ".join(getattr(self, f"_{name}")())

    def _text(self) -> Iterator[str]:
        if (count := int(self.described.sum())) < LEAST_TEXTS:
            yield f"{LEAST_TEXTS} items with a text, there are {count}"

    def _numbers(self) -> Iterator[str]:
        return self._text()

    def _groups(self) -> Iterator[str]:
        domain = self.domain
        likes = groups.Likes.of(domain, self.described, self.trained_rows)
        counts = {"item": int(self.described.sum()), "user": len(likes.users)}
        for spec in domain.schema.knowledge:
            if spec.name == "groups" and (needs := groups.unmet(domain.config.groups, spec.side, counts[spec.side])):
                yield needs

    def _liber(self) -> Iterator[str]:
        # a user with two summaries has a shift, so whoever has shifts has summaries
        if (count := int(self.early.sum())) < LEAST_TEXTS:
            yield f"{LEAST_TEXTS} summaries of the training period, there can be {count}{self._remedy()}"

    def _autograph(self) -> Iterator[str]:
        if (count := int(self.described.sum())) < LEAST_LATENT:
            yield f"{LEAST_LATENT} items with a text, there are {count}"
        if (count := int(self.early.sum())) < LEAST_LATENT:
            yield f"{LEAST_LATENT} summaries of the training period, there can be {count}{self._remedy()}"
        log, config = self.domain.log, self.domain.config.autograph
        liked = np.flatnonzero((log.value > self.domain.schema.liked_above) & ~log.sampled)
        cut = int(self.trained_rows * (1 - config.fitting.validation))
        before, after = int((liked < cut).sum()), int(((liked >= cut) & (liked < self.trained_rows)).sum())
        if not before or not after:
            yield f"likes early and late in the training period, there are {before} and {after}"

    def _marc(self) -> Iterator[str]:
        config, partitions = self.domain.config.marc.compression, self.partitions
        pairs = training_pairs(
            self.domain.log, self.trained_rows, self.domain.schema.liked_above, partitions.start, partitions.closed_at,
            self.described,
        )  # fmt: skip
        needed = ceil(LEAST_HELD_OUT / config.held_out)
        if len(pairs) < needed:
            yield (
                f"{needed} interactions of the training period that follow a summary of their user, there are "
                f"{len(pairs)}{self._remedy()}"
            )

    def _remedy(self) -> str:
        """The setting to change, with the facts that say how far."""
        now = closing(self.domain.config.liber.trigger)
        longest = int(np.bincount(self.domain.log.user[self.domain.log.observed], minlength=1).max())
        return (
            f" (a user gets one after every {now}, the longest history has {longest} interactions): lower "
            "knowledge.liber.partition_size"
        )
