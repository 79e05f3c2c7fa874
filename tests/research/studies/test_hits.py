"""Candidates against the items liked next: computed by hand for a few users, and nothing of later periods is seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from offline.config import RetrievalConfig
from offline.training.samples import split_samples
from research.studies.hits import SHARES, hits, hits_table
from tests.synthetic import Synthetic, synthetic


@pytest.fixture
def data(tmp_path: Path) -> Synthetic:
    source = synthetic(tmp_path)
    config = source.config.model_copy(update={"retrieval": RetrievalConfig(matching="marc")})
    return replace(source, config=config)


def test_every_source_alone_and_mixed(data: Synthetic) -> None:
    rows = hits(data.config, data.log, data.knowledge, top=10)
    assert len(rows) == 1 + 2 * len(SHARES)
    assert [row.name for row in rows[:2]] == ["popular", "matching (marc), 0% popular"]
    assert not rows[0].known.any()
    assert all((row.share >= 0).all() and (row.share <= 1).all() for row in rows)
    assert rows[0].interval()[0] <= rows[0].share.mean() <= rows[0].interval()[1]
    assert hits_table(rows, 10).count("\n") == 1 + len(rows)


def test_all_items_find_everything(data: Synthetic) -> None:
    rows = hits(data.config, data.log, data.knowledge, top=len(data.log.item_ids))
    assert all((row.share == 1).all() for row in rows)


def test_popular_candidates_by_hand(data: Synthetic) -> None:
    log, config, top = data.log, data.config, 10
    split = split_samples(config.samples, log)
    until, end = split.trained_rows, int(split.rows["validation"][-1]) + 1
    liked = log.value > config.feature_schema.liked_above
    counts = np.bincount(log.item[:until][liked[:until]], minlength=len(log.item_ids))
    shares = []
    for user in range(len(log.user_ids)):
        before = set(log.item[:until][log.user[:until] == user].tolist())
        after = set(log.item[until:end][(log.user[until:end] == user) & liked[until:end]].tolist()) - before
        if after:
            offered = [item for item in np.argsort(-counts, kind="stable").tolist() if item not in before][:top]
            shares.append(len(after & set(offered)) / len(after))
    row = hits(config, log, data.knowledge, top)[0]
    assert sorted(row.share.tolist()) == pytest.approx(sorted(shares))


def test_what_comes_after_the_validation_split_changes_nothing(data: Synthetic) -> None:
    split = split_samples(data.config.samples, data.log)
    end = int(split.rows["validation"][-1]) + 1
    value = data.log.value.copy()
    value[end:] = 6.0 - value[end:]
    item = data.log.item.copy()
    item[end:] = item[end:][::-1]
    other = replace(data.log, value=value, item=item)
    for row, again in zip(
        hits(data.config, data.log, data.knowledge, 10), hits(data.config, other, data.knowledge, 10), strict=True
    ):
        np.testing.assert_array_equal(row.share, again.share)
