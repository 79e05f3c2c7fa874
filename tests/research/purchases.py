"""A made-up log of purchases in parts, with items that are new in each, and drawn negatives."""

from __future__ import annotations

import numpy as np

from offline.config import SamplesConfig
from offline.data.arrival import draw_negatives
from offline.data.config import LabelsConfig
from offline.data.log import InteractionLog
from offline.training.samples import SplitRows, split_samples


def shop(users: int = 40, seed: int = 0) -> tuple[InteractionLog, SplitRows]:
    """12 purchases of each user in the training part, 3 in each of the others. Items 0 to 29 are bought from the
    start, the first ones more often, 30 to 39 from the validation part on, 40 to 49 in the test part alone."""
    generator = np.random.default_rng(seed)
    rows: list[tuple[str, str, float, int]] = []
    parts: list[int] = []
    chance = 1.0 / (1.0 + np.arange(50)) + 0.02
    for part, (count, items) in enumerate([(12, 30), (3, 40), (3, 50)]):
        for user in range(users):
            own = {row[1] for row in rows if row[0] == f"u{user}"}
            weights = chance[:items].copy()
            weights[[int(item[1:]) for item in own]] = 0.0
            if part:
                weights[30:] += 0.5
            drawn = generator.choice(items, count, replace=False, p=weights / weights.sum())
            rows += [(f"u{user}", f"i{item}", 1.0, part * 1000 + at) for at, item in enumerate(drawn.tolist())]
            parts += [part] * count
    order = [f"u{user}" for user in range(users)], [f"i{item}" for item in range(50)]
    log = InteractionLog.empty().with_rows(rows, *order, np.array(parts, np.int8))[0]
    log = draw_negatives(LabelsConfig(kind="implicit", negatives=2), log, 0.5)
    return log, split_samples(SamplesConfig(min_history=3), log)
