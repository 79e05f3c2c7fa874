"""Which samples the reranker learns from, is calibrated on and judged by, and what each of them may see.

The samples are those of the CTR model (offline/training/samples.py: ReLLa's protocol on MovieLens-1M); a language model
affords only a part of them, drawn once by the seed. A sample sees its own user's interactions earlier in the log, and
texts of items, which are told by nobody's behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.contract.arrays import FloatArray, IntArray
from models.contract.prompts import Blocks, Rated, RerankPrompt
from models.contract.rerank_items import RerankItems
from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog
from offline.training.samples import Split, SplitRows


def drawn(splits: SplitRows, split: Split, count: int, seed: int) -> IntArray:
    """Log rows of ``count`` samples of a split, or of all if there are fewer, in the order of the log.

    Of one split and seed, fewer rows are a part of more rows.
    """
    rows = splits.rows[split]
    order = np.random.default_rng([seed, ("train", "validation", "test").index(split)]).permutation(len(rows))
    return np.sort(rows[order[:count]])


@dataclass(frozen=True, slots=True)
class PromptBuilder:
    """Turns samples into prompts, as the service does with requests. ``items`` has a row for each item of the log.

    ``longest`` bounds the history that relevant events are searched in: the service reads no longer one.
    """

    catalogue: Catalogue
    log: InteractionLog
    items: RerankItems
    longest: int

    def blocks(self, prompt: RerankPrompt, rows: IntArray) -> list[Blocks]:
        """The prompt of the sample at each of these log rows."""
        index, candidate_blocks = self.log.by_user(), {}
        blocks = []
        for row in rows.tolist():
            user, item = int(self.log.user[row]), int(self.log.item[row])
            history = self.before(index.of_user(user), int(index.position[row]))
            vectors = self.items.vectors[self.log.item[history]]
            chosen = history[prompt.chosen(self.items.vectors[item], vectors)]
            if item not in candidate_blocks:
                candidate_blocks[item] = prompt.candidate_block(self.items.texts[item])
            profile = self.catalogue.users.get(self.log.user_ids[user], {})
            blocks.append(Blocks(prompt.user_block(profile, self._rated(chosen)), candidate_blocks[item]))
        return blocks

    def before(self, of_user: IntArray, position: int) -> IntArray:
        """Log rows of the last ``longest`` of the first ``position`` events of a user."""
        return of_user[max(0, position - self.longest) : position]

    def labels(self, liked_above: float, rows: IntArray) -> FloatArray:
        return (self.log.value[rows] > liked_above).astype(np.float32)

    def _rated(self, rows: IntArray) -> list[Rated]:
        items, values = self.log.item[rows].tolist(), self.log.value[rows].tolist()
        return [Rated(self.items.names[item], value) for item, value in zip(items, values, strict=True)]
