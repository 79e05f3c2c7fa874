"""Models that were never trained, on a small data set: scores that know the label as well as they are told to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.contract.schema import fingerprint
from offline.data.log import InteractionLog
from offline.training.samples import Split, SplitRows, split_samples
from research.quality.evaluate import evaluate
from research.quality.evaluation import EvaluatedSplit, Evaluation
from research.quality.predictions import Trained
from research.test_set_ledger import Ledger
from tests.synthetic import SCHEMA, synthetic

BOTH: tuple[Split, ...] = ("validation", "test")
RESAMPLES = 40


@dataclass(frozen=True)
class World:
    """A log and its splits."""

    log: InteractionLog
    splits: SplitRows

    @property
    def liked(self) -> np.ndarray:
        return np.asarray(self.log.value > SCHEMA.liked_above)

    def trained(
        self,
        model: str,
        *,
        skill: float = 1.0,
        test_skill: float | None = None,
        splits: tuple[Split, ...] = BOTH,
        **known: Any,
    ) -> Trained:
        """``test_skill`` where it is another on the test split."""
        rows = np.concatenate([np.zeros(0, np.int64), *(self.splits.rows[split] for split in splits)])
        split = np.repeat(np.array(splits or ["none"]), [len(self.splits.rows[part]) for part in splits] or [0])
        standard: dict[str, Any] = {"family": "peer", "seed": 1, "statistics": "frozen", "share": 1.0}
        standard |= {"parameters": 1234, "seconds": 90.0, "epochs": (0.5, 0.6), "ms_per_500": (3.0, 4.0, 8.0)}
        known = standard | {"circumstances": "same"} | known
        noise = np.random.default_rng(
            [int(fingerprint([model, known["statistics"], known["share"]]), 16), known["seed"]]
        )
        skills = np.where(split == "test", skill if test_skill is None else test_skill, skill)
        label = self.liked[rows]
        score = 1 / (1 + np.exp(-skills * (2.0 * label - 1) - noise.normal(size=len(rows))))
        return Trained(
            model=model,
            **known,
            rows=rows,
            split=split,
            label=label.astype(np.float32),
            score=score.astype(np.float32),
        )

    def evaluate(
        self, trained: list[Trained], folder: Path, split: EvaluatedSplit = "test", **known: Any
    ) -> Evaluation:
        ledger = Ledger(folder / "looks.jsonl", "benchmark")
        standard: dict[str, Any] = {"resamples": RESAMPLES, "ledger": ledger}
        known = standard | known
        return evaluate("ml-1m", trained, self.log, self.splits, split=split, **known)

    def everything(self) -> list[Trained]:
        """Three peers, two models of ours, live statistics and shares; two seeds each."""
        trained = []
        for seed in (1, 2):
            trained += [self.trained(f"peer {at}", skill=0.3 + 0.2 * at, seed=seed) for at in range(3)]
            for model, skill in (("ours", 1.2), ("ours without knowledge", 1.0)):
                known: dict[str, Any] = {"family": "ours", "seed": seed}
                trained.append(self.trained(model, skill=skill, **known))
                trained += [
                    self.trained(model, skill=skill * (0.7 + share), share=share, **known) for share in (0.01, 0.1)
                ]
            trained.append(self.trained("ours", skill=1.4, family="ours", seed=seed, statistics="live"))
        return trained


def world(folder: Path) -> World:
    data = synthetic(folder, users=60, events=30)
    return World(data.log, split_samples(data.config.samples, data.log))
