"""The probe ranks useful vectors over useless ones and repeats itself."""

from __future__ import annotations

import numpy as np

from research.marc.probe import probe_auc
from tests.offline.knowledge.marc.fakes import planted


def test_vectors_with_the_cause_are_told_from_noise_and_context_is_used() -> None:
    pairs, users, items = planted()
    learnt, judged = pairs.parted(0.25)
    noise = np.random.default_rng(3).normal(size=users.shape).astype(np.float32)
    useful = probe_auc(learnt, judged, users, items)
    useless = probe_auc(learnt, judged, noise, items)
    assert useful > 0.7
    assert abs(useless - 0.5) < 0.06
    answer = (pairs.liked + 0.5 * np.random.default_rng(4).normal(size=len(pairs)))[:, None].astype(np.float32)
    assert probe_auc(learnt, judged, noise, items, answer) > 0.85
    assert probe_auc(learnt, judged, noise, items) == useless
