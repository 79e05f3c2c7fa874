"""Canaries: prompts about made-up users, whose answers are measured when a reranker is written.

Their histories are drawn from the items that most people know, with values drawn at random, so that no user's history
leaves the data. Of each one's candidates the likeliest and the least likely are kept: an order that survives another
implementation's rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from models.contract.knowledge import FloatArray
from models.contract.prompts import Blocks, Rated, RerankPrompt
from models.contract.reranker import Canary
from offline.reranking.rows import Teller

_KNOWN = 200
"""So many of the most frequent items are drawn from."""

Answers = Callable[[Sequence[Blocks]], FloatArray]
"""Prompts -> probabilities of yes [n]."""


def canaries(
    teller: Teller, prompt: RerankPrompt, count: int, candidates: int, seed: int, answers: Answers
) -> tuple[Canary, ...]:
    """``count`` of them, fewer where the model answers all candidates alike."""
    log = teller.log
    frequent = np.argsort(-np.bincount(log.item, minlength=len(log.item_ids)), kind="stable")[:_KNOWN]
    values = np.unique(log.value[log.observed])
    draw = np.random.default_rng([seed, 11])
    asked: list[list[Blocks]] = []
    for _ in range(count):
        items = draw.permutation(frequent)
        told = [Rated(teller.items.names[at], float(draw.choice(values))) for at in items[: prompt.history]]
        rest = items[prompt.history :][:candidates] if len(items) > prompt.history + 1 else items[:candidates]
        asked.append([prompt.blocks({}, told, teller.items.texts[at]) for at in rest])
    found = np.split(answers([one for some in asked for one in some]), np.cumsum([len(some) for some in asked])[:-1])
    return tuple(
        Canary(
            user=some[0].user,
            candidates=(some[int(chance.argmax())].candidate, some[int(chance.argmin())].candidate),
            probabilities=(float(chance.max()), float(chance.min())),
        )
        for some, chance in zip(asked, found, strict=True)
        if chance.max() > chance.min()
    )
