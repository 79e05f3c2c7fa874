"""Scores of the CTR model: by log row, of the model with all knowledge or with none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offline.data.catalogue import DataError
from offline.knowledge.vectors import Knowledge
from offline.reranking.ctr import ctr_scores
from offline.training.samples import split_samples
from research.quality import run as runs
from research.quality.plan import OURS, WITHOUT_KNOWLEDGE
from tests.synthetic import Synthetic, synthetic


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return synthetic(tmp_path_factory.mktemp("ctr"), users=20, items=15, events=15)


def test_scores_are_found_by_row_and_trained_once(
    data: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ctr_scores(data.config, data.catalogue, data.log, Knowledge({}), tmp_path)
    assert found.model == f"{WITHOUT_KNOWLEDGE}, seed 1"
    rows = split_samples(data.config.samples, data.log).rows
    for split in ("validation", "test"):
        scores = found.of(rows[split])
        np.testing.assert_array_equal(found.of(rows[split][::-1]), scores[::-1])
        assert ((scores > 0) & (scores < 1)).all()
    with pytest.raises(DataError, match="other samples"):
        found.of(rows["train"][:3])
    monkeypatch.setattr(runs, "_train", None)
    again = ctr_scores(data.config, data.catalogue, data.log, Knowledge({}), tmp_path)
    np.testing.assert_array_equal(again.of(rows["test"]), found.of(rows["test"]))


def test_with_all_of_the_schemas_knowledge_it_is_the_served_model(
    data: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def noted(bench: runs.Bench, plan: list[object], workers: int = 1) -> list[object]:
        seen.extend(plan)
        raise KeyboardInterrupt

    monkeypatch.setattr("offline.reranking.ctr.run", noted)
    some = Knowledge({"text": data.knowledge.produced["text"]})
    for knowledge in (data.knowledge, some):
        with pytest.raises(KeyboardInterrupt):
            ctr_scores(data.config, data.catalogue, data.log, knowledge, tmp_path)
    assert [getattr(one, "model", "") for one in seen] == [OURS, WITHOUT_KNOWLEDGE]
    assert getattr(seen[0], "producers", ()) == tuple(data.knowledge.produced)
