"""A quick stand-in for training, for tests of what is trained and of tables."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from models.contract.schema import FeatureSchema, fingerprint
from offline.config import TrainingConfig
from offline.training.candidates import ModelSpec
from offline.training.fit import Fitted
from offline.training.samples import SampleEncoder, SplitRows
from research import trials


@dataclass
class Trainings:
    """Scores that know the label as well as ``skill`` says of the label of a trial. Remembers what was trained; the
    training after the first ``stop_after`` is interrupted."""

    skill: dict[str, float] = field(default_factory=dict)
    stop_after: int | None = None
    fitted: list[tuple[str, int]] = field(default_factory=list)
    schemas: dict[str, FeatureSchema] = field(default_factory=dict)
    scores: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)

    def fit(
        self,
        spec: ModelSpec,
        config: TrainingConfig,
        encoder: SampleEncoder,
        splits: SplitRows,
        seed: int,
        *,
        progress: bool = True,
    ) -> Fitted:
        if len(self.fitted) == self.stop_after:
            raise KeyboardInterrupt
        name = spec.label.removesuffix(f", seed {seed}")
        self.fitted.append((name, seed))
        self.schemas[name] = encoder.schema
        return Fitted((name, seed), 1, (0.5, 0.5 + seed / 10))  # type: ignore[arg-type]  # what ``predict`` is given

    def predict(self, model: tuple[str, int], encoder: SampleEncoder, rows: np.ndarray) -> np.ndarray:
        name, seed = model
        noise = np.random.default_rng([int(fingerprint(name), 16), seed]).normal(size=len(rows))
        signal = self.skill.get(name, 1.0) * (2 * encoder.labels[rows] - 1)
        self.scores[model] = (1 / (1 + np.exp(-signal - noise))).astype(np.float32)
        return self.scores[model]

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.fitted}


def trained_quickly(monkeypatch: pytest.MonkeyPatch, skill: dict[str, float] | None = None) -> Trainings:
    """From now on trials are "trained" in no time."""
    trainings = Trainings(skill or {})
    monkeypatch.setattr(trials, "fit", trainings.fit)
    monkeypatch.setattr(trials, "predict", trainings.predict)
    return trainings
