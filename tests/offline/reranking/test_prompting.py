"""The prompts of the reranker: samples drawn by the seed alone, as the service asks about them, and without their
future; unit vectors of items from a projection that is fitted once, on items of the training period; canaries that are
nobody's history and stay the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.contract.arrays import FloatArray
from models.contract.prompts import PromptParts, Rated, Selection
from offline.config import RerankingConfig
from offline.data.catalogue import Catalogue
from offline.data.texts import TextsConfig
from offline.knowledge.projection import Projection
from offline.reranking.prompting import PromptBuilder, canaries, draw_samples, items_of
from offline.training.samples import split_samples
from tests.offline.knowledge.fakes import WIDTH, HashEncoder
from tests.offline.reranking.fakes import PROMPT, SETTINGS, prompts
from tests.synthetic import Synthetic, synthetic

SELECTIONS: tuple[Selection, ...] = ("recent", "relevant")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return synthetic(tmp_path_factory.mktemp("rows"), users=20, items=25, events=20)


@pytest.fixture(scope="module")
def builder(data: Synthetic, tmp_path_factory: pytest.TempPathFactory) -> PromptBuilder:
    return prompts(data, tmp_path_factory.mktemp("vectors"))


def test_rows_are_drawn_by_the_seed_from_the_split(data: Synthetic) -> None:
    splits = split_samples(data.config.samples, data.log)
    some, more, other = (draw_samples(splits, "train", count, seed) for count, seed in ((10, 1), (20, 1), (10, 2)))
    assert set(some) < set(more) <= set(splits.rows["train"])
    assert some.tolist() == sorted(set(some.tolist()))
    assert some.tolist() != other.tolist()
    assert draw_samples(splits, "test", 10**6, 1).tolist() == splits.rows["test"].tolist()


@pytest.mark.parametrize("selection", SELECTIONS)
def test_nothing_from_the_sample_on_is_read(data: Synthetic, builder: PromptBuilder, selection: Selection) -> None:
    """Whatever happens at and after a sample's row, its prompt stays: other values, other items, other users."""
    prompt = PROMPT.model_copy(update={"selection": selection})
    log = data.log
    draw = np.random.default_rng(3)
    for row in draw.choice(np.flatnonzero(log.by_user().position >= 3), 12, replace=False):
        later = np.arange(len(log)) >= row
        item = np.where(later, draw.integers(len(log.item_ids), size=len(log)), log.item).astype(np.int32)
        item[row] = log.item[row]  # what is asked about
        value = np.where(later, 6.0 - log.value, log.value).astype(np.float32)
        changed = replace(builder, log=replace(log, item=item, value=value))
        at = np.array([row])
        assert changed.of_rows(prompt, at) == builder.of_rows(prompt, at)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_an_earlier_event_is_read(data: Synthetic, builder: PromptBuilder, selection: Selection) -> None:
    prompt = PROMPT.model_copy(update={"selection": selection})
    row = int(np.flatnonzero(data.log.by_user().position == 3)[0])  # fewer than are asked for
    value = np.where(np.arange(len(data.log)) < row, 6.0 - data.log.value, data.log.value).astype(np.float32)
    changed = replace(builder, log=replace(data.log, value=value))
    at = np.array([row])
    assert changed.of_rows(prompt, at) != builder.of_rows(prompt, at)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_prompt_is_the_one_that_the_contract_makes_of_a_request(
    data: Synthetic, builder: PromptBuilder, selection: Selection
) -> None:
    prompt = PROMPT.model_copy(update={"selection": selection})
    log, index = data.log, data.log.by_user()
    for row in np.flatnonzero(index.position >= 6)[::40].tolist():
        user, item = log.user_ids[log.user[row]], log.item_ids[log.item[row]]
        earlier = [at for at in range(row) if log.user[at] == log.user[row]][-builder.longest :]
        rows = builder.items.rows_of([log.item_ids[log.item[at]] for at in earlier])
        (candidate,) = builder.items.rows_of([item])
        chosen = prompt.chosen(builder.items.vectors[candidate], builder.items.vectors[rows])
        history = [Rated(builder.items.names[rows[at]], float(log.value[earlier[at]])) for at in chosen]
        expected = prompt.parts(data.catalogue.users[user], history, builder.items.texts[candidate])
        assert builder.of_rows(prompt, np.array([row])) == [expected]


def test_relevant_events_are_searched_in_as_much_history_as_the_service_reads(
    data: Synthetic, builder: PromptBuilder
) -> None:
    of_user = data.log.by_user().of_user(0)
    assert builder.before(of_user, 15).tolist() == of_user[7:15].tolist()
    assert builder.before(of_user, 2).tolist() == of_user[:2].tolist()
    assert builder.before(of_user, 0).tolist() == []


@pytest.fixture
def small(tmp_path: Path) -> Synthetic:
    return synthetic(tmp_path, users=10, items=20, events=10)


def test_vectors_have_unit_length_and_names_are_words(small: Synthetic, tmp_path: Path) -> None:
    items = items_of(
        small.catalogue, small.log, TextsConfig(), 40, 80, 4, HashEncoder().encode, tmp_path / "projection.npz"
    )
    assert items.vectors.shape == (len(small.log.item_ids), 4)
    np.testing.assert_allclose(np.linalg.norm(items.vectors, axis=1), 1.0, atol=1e-3)
    at = list(items.ids).index("i3")
    assert items.names[at] == "Film 3"
    assert items.texts[at].startswith("'Film 3' (")
    assert max(map(len, items.texts)) <= 40


def test_the_projection_is_fitted_to_items_of_the_training_period_and_kept(small: Synthetic, tmp_path: Path) -> None:
    path, encoder = tmp_path / "projection.npz", HashEncoder()
    items_of(small.catalogue, small.log, TextsConfig(), 160, 40, 4, encoder.encode, path)
    seen = np.unique(small.log.item[:40])
    texts = [str(TextsConfig().item_text(small.catalogue.items[item])) for item in small.log.item_ids]
    expected = Projection.fit(encoder.encode([texts[at] for at in seen]), 4)
    assert Projection.load(path).digest == expected.digest
    items_of(small.catalogue, small.log, TextsConfig(), 160, 100, 4, encoder.encode, path)
    assert Projection.load(path).digest == expected.digest, "another one would make other vectors"


def test_items_without_a_text_are_similar_to_nothing(small: Synthetic, tmp_path: Path) -> None:
    bare = Catalogue(small.catalogue.users, {**small.catalogue.items, "i3": {}})
    items = items_of(bare, small.log, TextsConfig(), 160, 80, 4, HashEncoder().encode, tmp_path / "projection.npz")
    assert not items.vectors[list(items.ids).index("i3")].any()


def test_a_catalogue_too_small_to_fit_keeps_its_vectors(small: Synthetic, tmp_path: Path) -> None:
    path = tmp_path / "projection.npz"
    items = items_of(small.catalogue, small.log, TextsConfig(), 160, 80, 64, HashEncoder().encode, path)
    assert items.vectors.shape[1] == WIDTH
    assert not path.exists()


def hashed(prompts: Sequence[PromptParts]) -> FloatArray:
    return np.array([hashlib.sha256(str(prompt).encode()).digest()[0] / 256 for prompt in prompts], np.float32)


def canary_settings(seed: int) -> RerankingConfig:
    return SETTINGS.model_copy(update={"canaries": 3, "candidates": 5, "seed": seed})


def test_each_canary_is_a_likely_and_an_unlikely_prompt_about_made_up_users(builder: PromptBuilder) -> None:
    pairs = canaries(builder, PROMPT, canary_settings(1), hashed)
    assert len(pairs) == 3
    for canary in pairs:
        assert canary.probabilities[0] > canary.probabilities[1]
        assert hashed(canary.prompts).tolist() == list(canary.probabilities)
        for parts, stars in zip(canary.prompts, ("345", "12"), strict=True):
            rated = [line[-7] for line in parts.user.splitlines() if line.endswith("stars")]
            assert len(rated) == PROMPT.history
            assert set(rated) <= set(stars)
            assert "occupation" not in parts.user
    assert canaries(builder, PROMPT, canary_settings(1), hashed) == pairs
    assert canaries(builder, PROMPT, canary_settings(2), hashed) != pairs


def test_a_model_that_answers_everything_alike_has_no_canaries(builder: PromptBuilder) -> None:
    assert canaries(builder, PROMPT, canary_settings(1), lambda prompts: np.full(len(prompts), 0.5, np.float32)) == ()
