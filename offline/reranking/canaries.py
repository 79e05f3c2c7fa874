"""Canaries: pairs of prompts about made-up users, whose answers are measured when a reranker is written.

Their histories are drawn from the items that most people know, so that no user's history leaves the data. The first of
a pair rated all of them high, the second the same items low; of the candidates the likeliest for the one and the least
likely for the other are kept: an order that survives another implementation's rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from models.contract.arrays import FloatArray
from models.contract.prompts import Blocks, Rated, RerankPrompt
from models.contract.reranker import Canary
from offline.reranking.rows import PromptBuilder

_KNOWN = 200
"""So many of the most frequent items are drawn from."""

Answers = Callable[[Sequence[Blocks]], FloatArray]
"""Prompts -> probabilities of yes [n]."""


def canaries(
    prompts: PromptBuilder, prompt: RerankPrompt, count: int, candidates: int, seed: int, answers: Answers
) -> tuple[Canary, ...]:
    """``count`` of them, fewer where the model does not tell the two users apart."""
    log = prompts.log
    frequent = np.argsort(-np.bincount(log.item, minlength=len(log.item_ids)), kind="stable")[:_KNOWN]
    values = np.unique(log.value[log.observed])
    high, low = values[len(values) // 2 :], values[: max(1, len(values) // 2)]
    draw = np.random.default_rng([seed, 11])
    asked: list[list[Blocks]] = []
    for _ in range(count):
        items = draw.permutation(frequent)
        rest = items[prompt.history :][:candidates] if len(items) > prompt.history else items[:candidates]
        for part in (high, low):
            rated = [Rated(prompts.items.names[at], float(draw.choice(part))) for at in items[: prompt.history]]
            asked.append([prompt.blocks({}, rated, prompts.items.texts[at]) for at in rest])
    chances = answers([blocks for pair in asked for blocks in pair]).reshape(count, 2, -1)
    selected = []
    for pair, chance in zip(range(count), chances, strict=True):
        best, worst = int(chance[0].argmax()), int(chance[1].argmin())
        if chance[0, best] > chance[1, worst]:
            likes_and_dislikes = asked[2 * pair][best], asked[2 * pair + 1][worst]
            selected.append(
                Canary(prompts=likes_and_dislikes, probabilities=(float(chance[0, best]), float(chance[1, worst])))
            )
    return tuple(selected)
