"""A fit: repeatable, learns, and sees the past only. The leak check is itself checked on planted leaks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from models.contract.arrays import FloatArray, IntArray
from offline.knowledge.autograph.assign import AutoGraph
from offline.knowledge.autograph.graph import Evidence, Neighbours
from offline.knowledge.autograph.train import fit_frozen
from offline.knowledge.config import FittingConfig
from offline.knowledge.errors import TooFewError
from tests.offline.knowledge.autograph.small import CONFIG, GENRES, ITEMS, TRAINED, USERS, altered, world


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return world()


@pytest.fixture(scope="module")
def autograph(evidence: Evidence) -> AutoGraph:
    return fit_frozen(evidence, TRAINED, CONFIG)


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that samples before a boundary may see."""

    items: FloatArray
    versions: FloatArray
    users: FloatArray


def seen_before(autograph: AutoGraph, evidence: Evidence, boundary: int) -> Seen:
    assigned = autograph.assign(evidence)
    rows = np.arange(0, boundary, 7)
    user = evidence.user[rows].astype(np.int64)
    return Seen(
        assigned.item_vectors(autograph.from_row[autograph.from_row < boundary]),
        assigned.version_vectors()[evidence.versions.closed_at < boundary - 1],
        assigned.user_vectors(user, rows),
    )


def leaks(autograph: AutoGraph, evidence: Evidence, boundary: int) -> list[str]:
    """Parts that change for samples before ``boundary`` when everything from it on is another story."""
    honest = seen_before(autograph, evidence, boundary)
    other = seen_before(autograph, altered(evidence, boundary), boundary)
    return [name for name in Seen.__slots__ if not np.array_equal(getattr(honest, name), getattr(other, name))]


@pytest.mark.parametrize("boundary", [1, 300, 577, TRAINED // 4, TRAINED, TRAINED + 40])
def test_no_vector_knows_what_comes_after_the_sample(autograph: AutoGraph, evidence: Evidence, boundary: int) -> None:
    assert leaks(autograph, evidence, boundary) == []


def test_no_frozen_part_knows_what_comes_after_training(autograph: AutoGraph, evidence: Evidence) -> None:
    assert fit_frozen(altered(evidence, TRAINED), TRAINED, CONFIG).digest == autograph.digest


def test_the_last_slice_uses_all_training_edges_and_no_later_one(autograph: AutoGraph, evidence: Evidence) -> None:
    last = autograph.assign(evidence).item_vectors()[-1]
    np.testing.assert_array_equal(last, autograph.assign(evidence.before(TRAINED)).item_vectors()[-1])
    assert not np.array_equal(last, autograph.assign(altered(evidence, TRAINED - 60)).item_vectors()[-1])


def test_a_planted_leak_of_item_edges_is_caught(
    autograph: AutoGraph, evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Neighbours.recent_users
    monkeypatch.setattr(Neighbours, "recent_users", lambda self, boundary: honest(self, boundary + 30))
    assert "items" in leaks(autograph, evidence, int(autograph.from_row[2]) + 1)


def test_a_planted_leak_of_likes_and_versions_is_caught(
    autograph: AutoGraph, evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    likes, version = Neighbours.recent_likes, Neighbours.visible_version

    def some_rows_too_many(self: Neighbours, user: IntArray, row: IntArray) -> IntArray:
        return likes(self, user, row + 40)

    def versions_too_early(self: Neighbours, user: IntArray, row: IntArray) -> IntArray:
        return version(self, user, row + 200)

    monkeypatch.setattr(Neighbours, "recent_likes", some_rows_too_many)
    assert "users" in leaks(autograph, evidence, 577)
    monkeypatch.setattr(Neighbours, "recent_likes", likes)
    monkeypatch.setattr(Neighbours, "visible_version", versions_too_early)
    assert {"users", "items"} & set(leaks(autograph, evidence, 577))


def test_a_planted_leak_into_the_fit_is_caught(
    autograph: AutoGraph, evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Evidence, "before", lambda self, row: self)
    assert (
        fit_frozen(altered(evidence, TRAINED), TRAINED, CONFIG).digest != fit_frozen(evidence, TRAINED, CONFIG).digest
    )


def test_the_same_evidence_gives_the_same_bytes_and_another_seed_does_not(
    autograph: AutoGraph, evidence: Evidence
) -> None:
    assert fit_frozen(evidence, TRAINED, CONFIG).digest == autograph.digest
    assert fit_frozen(evidence, TRAINED, CONFIG.model_copy(update={"seed": 2})).digest != autograph.digest


def test_published_vectors_have_unit_mean_square(autograph: AutoGraph, evidence: Evidence) -> None:
    assigned = autograph.assign(evidence.before(TRAINED))
    assert float((assigned.version_vectors() ** 2).mean()) == pytest.approx(1.0, rel=1e-4)
    assert float((assigned.item_vectors()[-1] ** 2).mean()) == pytest.approx(1.0, rel=1e-4)


def test_users_score_films_of_their_genre_higher(evidence: Evidence) -> None:
    fitting = CONFIG.fitting.model_copy(update={"epochs": 8, "patience": 8})
    autograph = fit_frozen(evidence, TRAINED, CONFIG.model_copy(update={"fitting": fitting}))
    assert len(autograph.history) == 8
    assert max(autograph.history) > autograph.history[0]
    assigned = autograph.assign(evidence)
    users = assigned.user_vectors(np.arange(USERS), np.full(USERS, TRAINED))
    scores = users @ assigned.item_vectors()[-1].T
    same = np.arange(USERS)[:, None] % GENRES == np.arange(ITEMS)[None] % GENRES
    assert scores[same].mean() > scores[~same].mean() + scores.std() / 2


@pytest.mark.parametrize("negatives", [0, 5])
def test_training_stops_when_validation_does_not_rise(evidence: Evidence, negatives: int) -> None:
    fitting = FittingConfig(epochs=50, patience=1, batch=128, learning_rate=3e-2, negatives=negatives, refit=False)
    history = fit_frozen(evidence, TRAINED, CONFIG.model_copy(update={"fitting": fitting})).history
    assert len(history) < 50
    assert int(np.argmax(history)) == len(history) - 2


def test_too_little_data_is_a_clear_error(evidence: Evidence) -> None:
    with pytest.raises(TooFewError, match=r"8 encoded summaries .* there are 0"):
        fit_frozen(evidence, 30, CONFIG)
    nobody_likes = replace(evidence, liked=np.zeros_like(evidence.liked))
    with pytest.raises(TooFewError, match=r"likes in the first .* there are 0 and 0"):
        fit_frozen(nobody_likes, TRAINED, CONFIG)
