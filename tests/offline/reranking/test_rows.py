"""Samples of the reranker: drawn by the seed alone, told as the service tells them, and without their future."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.contract.prompts import Rated, Selection
from offline.reranking.rows import PromptBuilder, drawn
from offline.training.samples import split_samples
from tests.offline.reranking.fakes import PROMPT, prompts
from tests.synthetic import Synthetic, synthetic

SELECTIONS: tuple[Selection, ...] = ("recent", "relevant")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return synthetic(tmp_path_factory.mktemp("rows"), users=20, items=25, events=20)


@pytest.fixture(scope="module")
def told(data: Synthetic, tmp_path_factory: pytest.TempPathFactory) -> PromptBuilder:
    return prompts(data, tmp_path_factory.mktemp("vectors"))


def test_rows_are_drawn_by_the_seed_from_the_split(data: Synthetic) -> None:
    splits = split_samples(data.config.samples, data.log)
    some, more, other = (drawn(splits, "train", count, seed) for count, seed in ((10, 1), (20, 1), (10, 2)))
    assert set(some) < set(more) <= set(splits.rows["train"])
    assert some.tolist() == sorted(set(some.tolist()))
    assert some.tolist() != other.tolist()
    assert drawn(splits, "test", 10**6, 1).tolist() == splits.rows["test"].tolist()


@pytest.mark.parametrize("selection", SELECTIONS)
def test_nothing_from_the_sample_on_is_read(data: Synthetic, told: PromptBuilder, selection: Selection) -> None:
    """Whatever happens at and after a sample's row, its prompt stays: other values, other items, other users."""
    prompt = PROMPT.model_copy(update={"selection": selection})
    log = data.log
    draw = np.random.default_rng(3)
    for row in draw.choice(np.flatnonzero(log.by_user().position >= 3), 12, replace=False):
        later = np.arange(len(log)) >= row
        item = np.where(later, draw.integers(len(log.item_ids), size=len(log)), log.item).astype(np.int32)
        item[row] = log.item[row]  # what is asked about
        value = np.where(later, 6.0 - log.value, log.value).astype(np.float32)
        changed = replace(told, log=replace(log, item=item, value=value))
        at = np.array([row])
        assert changed.blocks(prompt, at) == told.blocks(prompt, at)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_an_earlier_event_is_read(data: Synthetic, told: PromptBuilder, selection: Selection) -> None:
    prompt = PROMPT.model_copy(update={"selection": selection})
    row = int(np.flatnonzero(data.log.by_user().position == 3)[0])  # fewer than are told
    value = np.where(np.arange(len(data.log)) < row, 6.0 - data.log.value, data.log.value).astype(np.float32)
    changed = replace(told, log=replace(data.log, value=value))
    at = np.array([row])
    assert changed.blocks(prompt, at) != told.blocks(prompt, at)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_prompt_is_the_one_that_the_contract_makes_of_a_request(
    data: Synthetic, told: PromptBuilder, selection: Selection
) -> None:
    prompt = PROMPT.model_copy(update={"selection": selection})
    log, index = data.log, data.log.by_user()
    for row in np.flatnonzero(index.position >= 6)[::40].tolist():
        user, item = log.user_ids[log.user[row]], log.item_ids[log.item[row]]
        earlier = [at for at in range(row) if log.user[at] == log.user[row]][-told.longest :]
        rows = told.items.rows_of([log.item_ids[log.item[at]] for at in earlier])
        (candidate,) = told.items.rows_of([item])
        chosen = prompt.chosen(told.items.vectors[candidate], told.items.vectors[rows])
        history = [Rated(told.items.names[rows[at]], float(log.value[earlier[at]])) for at in chosen]
        expected = prompt.blocks(data.catalogue.users[user], history, told.items.texts[candidate])
        assert told.blocks(prompt, np.array([row])) == [expected]


def test_relevant_events_are_searched_in_as_much_history_as_the_service_reads(
    data: Synthetic, told: PromptBuilder
) -> None:
    of_user = data.log.by_user().of_user(0)
    assert told.before(of_user, 15).tolist() == of_user[7:15].tolist()
    assert told.before(of_user, 2).tolist() == of_user[:2].tolist()
    assert told.before(of_user, 0).tolist() == []


def test_labels_are_those_of_the_protocol(data: Synthetic, told: PromptBuilder) -> None:
    rows = np.arange(50)
    assert told.labels(3.0, rows).tolist() == (data.log.value[:50] > 3).astype(float).tolist()
