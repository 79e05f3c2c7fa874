"""Frozen parts: what did not change keeps its vector to the bit, what is new gets one without any fitting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.contract.arrays import FloatArray
from offline.data.catalogue import DataError
from offline.data.files import write_arrays
from offline.knowledge.autograph.assign import AutoGraph
from offline.knowledge.autograph.graph import Evidence, Versions
from offline.knowledge.autograph.train import fit_frozen
from tests.offline.knowledge.autograph.small import CONFIG, GENRES, ITEMS, TRAINED, USERS, WIDTH, texts_like, world


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return world()


@pytest.fixture(scope="module")
def autograph(evidence: Evidence) -> AutoGraph:
    return fit_frozen(evidence, TRAINED, CONFIG)


def bits(vectors: FloatArray) -> FloatArray:
    return vectors.view(np.int32)


def grown(evidence: Evidence, items: int, users: int) -> Evidence:
    """More items and more users, each of them with one version, and interactions between them at the log's end."""
    generator = np.random.default_rng(4)
    rows = 6 * users
    user, item = np.repeat(np.arange(users) + USERS, 6), generator.integers(ITEMS + items, size=rows)
    versions, end = evidence.versions, len(evidence.user)
    start = np.concatenate([versions.start, len(versions) + 1 + np.arange(users)])
    return Evidence(
        np.concatenate([evidence.items, texts_like(np.arange(items) % GENRES, generator)]),
        np.concatenate([evidence.known_items, np.ones(items, np.bool_)]),
        Versions(
            np.concatenate([versions.vectors, texts_like(np.arange(users) % GENRES, generator)]),
            start,
            np.concatenate([versions.closed_at, end + 5 + 6 * np.arange(users)]),
            np.concatenate([versions.known, np.ones(users, np.bool_)]),
        ),
        np.concatenate([evidence.user, user]),
        np.concatenate([evidence.item, item]),
        np.concatenate([evidence.liked, np.ones(rows, np.bool_)]),
    )


def test_shapes_and_types(autograph: AutoGraph, evidence: Evidence) -> None:
    assigned = autograph.assign(evidence)
    items, versions = assigned.item_vectors(), assigned.version_vectors()
    assert items.shape == (5, ITEMS, 8)
    assert items.dtype == versions.dtype == np.float32
    assert versions.shape == (len(evidence.versions), 8)
    assert assigned.item_codes.shape == (ITEMS, 3)
    assert assigned.item_codes.dtype == assigned.version_codes.dtype == np.uint16
    assert (assigned.item_codes[~evidence.known_items] == 0).all()
    assert np.isfinite(items).all()
    assert np.isfinite(versions).all()


def test_newcomers_leave_everybody_else_as_they_were(autograph: AutoGraph, evidence: Evidence) -> None:
    before, after = autograph.assign(evidence), autograph.assign(grown(evidence, 300, 70))
    count = len(evidence.versions)
    np.testing.assert_array_equal(bits(after.item_vectors()[:, :ITEMS]), bits(before.item_vectors()))
    np.testing.assert_array_equal(bits(after.version_vectors()[:count]), bits(before.version_vectors()))
    np.testing.assert_array_equal(after.item_codes[:ITEMS], before.item_codes)
    np.testing.assert_array_equal(after.version_codes[:count], before.version_codes)


def test_a_newcomer_is_placed_by_its_text(autograph: AutoGraph, evidence: Evidence) -> None:
    assigned = autograph.assign(grown(evidence, 40, 40))
    users, items = assigned.version_vectors()[-40:], assigned.item_vectors()[-1][-40:]
    assert len(np.unique(users, axis=0)) == len(np.unique(items, axis=0)) == 40


def test_a_changed_text_changes_its_owner_alone(autograph: AutoGraph, evidence: Evidence) -> None:
    changed = evidence.items.copy()
    changed[7] = -changed[7]
    other = replace(evidence, items=changed)
    before, after = autograph.assign(evidence).item_vectors(), autograph.assign(other).item_vectors()
    different = (before != after).any(axis=(0, 2))
    assert np.flatnonzero(different).tolist() == [7]


def test_users_get_the_same_vector_in_any_company(autograph: AutoGraph, evidence: Evidence) -> None:
    assigned, generator = autograph.assign(evidence), np.random.default_rng(6)
    user, row = generator.integers(USERS, size=900), generator.integers(len(evidence.user), size=900)
    together = assigned.user_vectors(user, row)
    order = generator.permutation(900)
    np.testing.assert_array_equal(bits(assigned.user_vectors(user[order], row[order])), bits(together[order]))
    for at in range(0, 900, 211):
        alone = assigned.user_vectors(user[at : at + 1], row[at : at + 1])
        np.testing.assert_array_equal(bits(alone), bits(together[at : at + 1]))


def test_a_version_is_its_user_as_of_the_closing_row(autograph: AutoGraph, evidence: Evidence) -> None:
    assigned, versions = autograph.assign(evidence), evidence.versions
    later = assigned.user_vectors(versions.user, versions.closed_at + 1)
    np.testing.assert_array_equal(assigned.version_vectors(), later)


def test_a_user_of_whom_nothing_is_known_has_a_vector_too(autograph: AutoGraph, evidence: Evidence) -> None:
    nobody = autograph.assign(evidence).user_vectors(np.array([0, 1]), np.array([0, 0]))
    assert np.isfinite(nobody).all()
    np.testing.assert_array_equal(nobody[0], nobody[1])


def test_it_reads_back(autograph: AutoGraph, evidence: Evidence, tmp_path: Path) -> None:
    autograph.save(tmp_path / "autograph.npz")
    read = AutoGraph.load(tmp_path / "autograph.npz")
    assert read.digest == autograph.digest
    assert read.history == autograph.history
    assert read.notes == autograph.notes
    assigned, read_back = autograph.assign(evidence), read.assign(evidence)
    np.testing.assert_array_equal(bits(assigned.item_vectors()), bits(read_back.item_vectors()))
    np.testing.assert_array_equal(bits(assigned.version_vectors()), bits(read_back.version_vectors()))


def test_the_digest_follows_every_fitted_part(autograph: AutoGraph) -> None:
    name = next(iter(autograph.network))
    others = [
        replace(autograph, network={**autograph.network, name: autograph.network[name] + 1}),
        replace(autograph, user_factors=autograph.user_factors + 1),
        replace(autograph, item_factors=autograph.item_factors + 1),
        replace(autograph, from_row=autograph.from_row + 1),
        replace(autograph, items=autograph.users),
        replace(autograph, config=CONFIG.model_copy(update={"seed": 3})),
    ]
    assert len({autograph.digest, *(changed.digest for changed in others)}) == 1 + len(others)
    assert replace(autograph, history=()).digest == autograph.digest


def test_notes_say_what_was_reduced(autograph: AutoGraph, evidence: Evidence) -> None:
    assert autograph.notes == ()
    config = CONFIG.model_copy(update={"item_factors": CONFIG.item_factors.model_copy(update={"size": 64})})
    assert fit_frozen(evidence, TRAINED, config).notes == ("item factors: 11 codes instead of 64: only 46 vectors",)


def test_what_does_not_fit_is_refused(autograph: AutoGraph, evidence: Evidence, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fitted on 48 items"):
        autograph.assign(replace(evidence, items=evidence.items[:9], known_items=evidence.known_items[:9]))
    write_arrays(tmp_path / "other.npz", items=np.zeros((2, WIDTH)))
    with pytest.raises(DataError, match="no AutoGraph"):
        AutoGraph.load(tmp_path / "other.npz")
