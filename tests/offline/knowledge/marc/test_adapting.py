"""A job's model is adapted to what its training period holds, and to nothing after it."""

from __future__ import annotations

import filecmp
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from offline.data.catalogue import DataError
from offline.data.log import InteractionLog
from offline.knowledge.config import CompressionConfig
from offline.knowledge.errors import NotFittedError
from offline.knowledge.marc.adapt import AdaptationConfig, adapt_model
from tests.offline.knowledge.fakes import EchoModel, inputs
from tests.offline.knowledge.marc.fakes import tiny_model
from tests.synthetic import Synthetic, synthetic

ADAPTATION = AdaptationConfig(steps=2, rank=2, learning_rate=1e-2, max_tokens=32, precision="float32")
TRAINED = 300
WORDS = ("Film", *map(str, range(20)))
"""Words by which these items, and the users who liked them, differ."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    folder = tmp_path_factory.mktemp("synthetic")
    small = synthetic(folder, users=20, items=10, events=20)
    compression = CompressionConfig(dim=8, hidden=8, matching_width=4, batch_size=8, constraint_rows=8)
    marc = small.config.knowledge.marc.model_copy(
        update={"model": tiny_model(folder / "model", words=WORDS), "compression": compression}
    )
    knowledge = small.config.knowledge.model_copy(update={"marc": marc})
    return replace(small, config=small.config.model_copy(update={"knowledge": knowledge}))


def adapted(
    data: Synthetic,
    target: Path,
    *,
    log: InteractionLog | None = None,
    model: EchoModel | None = None,
    until: int = TRAINED,
) -> int:
    given = inputs(
        data.config, data.catalogue, log or data.log, target.parent / "work", trained_rows=until, model=model
    )
    return adapt_model(given, target, ADAPTATION)


def weights(folder: Path) -> Path:
    return folder / "model.safetensors"


def test_it_learns_from_the_training_period_alone(data: Synthetic, tmp_path: Path) -> None:
    late = np.arange(len(data.log)) >= TRAINED
    otherwise = replace(data.log, value=np.where(late, 6.0 - data.log.value, data.log.value).astype(np.float32))
    earlier = replace(data.log, value=np.where(late, data.log.value, 6.0 - data.log.value).astype(np.float32))
    pairs = adapted(data, tmp_path / "one")
    assert 0 < pairs < TRAINED
    assert adapted(data, tmp_path / "two", log=otherwise) == pairs
    adapted(data, tmp_path / "three", log=earlier)
    assert filecmp.cmp(weights(tmp_path / "one"), weights(tmp_path / "two"), shallow=False)
    assert not filecmp.cmp(weights(tmp_path / "one"), weights(tmp_path / "three"), shallow=False)
    model = data.config.knowledge.marc.model
    assert model is not None
    assert not filecmp.cmp(weights(tmp_path / "one"), weights(model), shallow=False)


def test_it_overwrites_nothing_and_waits_for_texts(data: Synthetic, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(DataError, match="is there already"):
        adapted(data, tmp_path / "there")
    with pytest.raises(NotFittedError, match="still missing"):
        adapted(data, tmp_path / "one", model=EchoModel(absent=lambda prompt: True))
    with pytest.raises(DataError, match="nothing to learn from"):
        adapted(data, tmp_path / "one", until=1)
    assert not (tmp_path / "one").exists()
