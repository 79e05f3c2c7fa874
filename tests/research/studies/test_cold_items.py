"""Hidden items: nothing of them leaks, so many events are revealed as are wanted, and the future is never seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.contract.arrays import FloatArray, IntArray
from models.contract.items import item_statistics
from offline.config import LifelongConfig
from offline.data.catalogue import DataError
from offline.knowledge.vectors import Knowledge
from offline.training.samples import SampleEncoder, split_samples
from research.studies import cold_items
from research.studies.cold_items import (
    REVEALED,
    ColdItems,
    ColdVariant,
    HiddenLog,
    JudgedPart,
    cold_items_table,
    cold_variants,
    hidden_items,
    hide,
)
from tests.synthetic import SCHEMA, Synthetic, synthetic

PARTS: tuple[JudgedPart, ...] = ("validation", "test")
of_both_parts = pytest.mark.parametrize("part", PARTS)
of_every_count = pytest.mark.parametrize("revealed", REVEALED)


@pytest.fixture
def data(tmp_path: Path) -> Synthetic:
    """Items with 20 to 60 events, one in four of them with three."""
    whole = synthetic(tmp_path, users=60, items=40, events=30)
    rank = np.zeros(len(whole.log), np.int64)
    for item in range(40):
        rows = np.flatnonzero(whole.log.item == item)
        rank[rows] = np.arange(len(rows))
    return replace(whole, log=whole.log.without((whole.log.item % 4 == 0) & (rank >= 3) & (rank < 30), ()))


def hidden_log(data: Synthetic, part: JudgedPart, revealed: int, seed: int = 1) -> tuple[HiddenLog, Any]:
    hidden = hidden_items(len(data.log.item_ids), 0.2, seed)
    return hide(data.log, split_samples(data.config.samples, data.log), hidden, part, revealed, seed), hidden


def encoder_of(data: Synthetic, of: HiddenLog) -> SampleEncoder:
    schema = SCHEMA.with_knowledge(("text",)).model_copy(update={"history_length": 40})
    return SampleEncoder(schema, data.catalogue, of.log, data.knowledge.of(("text",)), of.splits.trained_rows)


def test_trainings_hide_different_items_and_then_start_anew() -> None:
    masks = np.stack([hidden_items(41, 0.2, seed) for seed in range(1, 11)])
    assert (masks.sum(axis=1) == 8).all()
    assert masks[:5].sum(axis=0).max() == masks[5:].sum(axis=0).max() == 1
    assert not (masks[0] == masks[5]).all()
    np.testing.assert_array_equal(masks[3], hidden_items(41, 0.2, 4))


@of_both_parts
@of_every_count
def test_so_many_events_are_revealed_or_as_many_as_there_are(data: Synthetic, part: JudgedPart, revealed: int) -> None:
    log, splits = data.log, split_samples(data.config.samples, data.log)
    first = splits.rows[part][0]
    of, hidden = hidden_log(data, part, revealed)
    before = of.rows[of.rows < first]
    counts = np.bincount(log.item[before], minlength=len(hidden))
    there_are = np.bincount(log.item[: splits.trained_rows], minlength=len(hidden))
    np.testing.assert_array_equal(counts[hidden], np.minimum(revealed, there_are[hidden]))
    assert revealed < 20 or len(set(counts[hidden].tolist())) > 1  # of some there are fewer
    assert (before[hidden[log.item[before]]] < splits.trained_rows).all()
    others = np.flatnonzero(~hidden[log.item] | (np.arange(len(log)) >= first))
    assert np.isin(others, of.rows).all()  # nothing else is missing
    for name in ("user", "item", "value", "time_ms"):
        np.testing.assert_array_equal(getattr(of.log, name), getattr(log, name)[of.rows])


@of_both_parts
def test_more_events_are_the_same_and_others(data: Synthetic, part: JudgedPart) -> None:
    rows = [set(hidden_log(data, part, revealed)[0].rows.tolist()) for revealed in REVEALED]
    assert rows[0] < rows[1] < rows[2] < rows[3]
    other = hidden_log(data, part, 5, seed=6)[0].rows.tolist()
    assert set(other) != rows[2]


def test_samples_are_those_of_the_whole_log_that_are_left(data: Synthetic) -> None:
    splits = split_samples(data.config.samples, data.log)
    of, hidden = hidden_log(data, "test", 0)
    for name, rows in of.splits.rows.items():
        whole = splits.rows[name]
        left = whole if name == "test" else whole[~hidden[data.log.item[whole]]]
        np.testing.assert_array_equal(of.rows[rows], left)
    assert of.rows[of.splits.trained_rows] >= splits.trained_rows > of.rows[of.splits.trained_rows - 1]


@of_both_parts
def test_nothing_of_a_hidden_item_is_in_training(data: Synthetic, part: JudgedPart) -> None:
    of, hidden = hidden_log(data, part, 0)
    encoder = encoder_of(data, of)
    rows = {name: of.splits.rows[name] for name in ("train", "validation", "test")}
    unknown = item_statistics(SCHEMA, 0, 0, 0)
    assert not hidden[of.log.item[rows["train"]]].any()
    assert part == "validation" or not hidden[of.log.item[rows["validation"]]].any()
    assert not encoder.table.index[1:][hidden].any()
    np.testing.assert_array_equal(encoder.table.numeric[1:][hidden], np.tile(unknown, (hidden.sum(), 1)))
    for samples in (rows["train"], rows["validation"] if part == "test" else rows["train"]):
        history = encoder.users(samples).history_rows
        assert not np.isin(history, np.flatnonzero(hidden) + 1).any()
    judged = rows[part][hidden[of.log.item[rows[part]]]]
    tensors = encoder.tensors(judged)
    assert len(judged) > 10
    assert not tensors["item_index"].any()
    np.testing.assert_array_equal(tensors["item_numeric"], np.tile(unknown, (len(judged), 1)))


def test_revealed_events_are_in_statistics_and_histories_but_have_no_embedding(data: Synthetic) -> None:
    trained = encoder_of(data, hidden_log(data, "test", 0)[0])
    of, hidden = hidden_log(data, "test", 5)
    encoder = encoder_of(data, of).as_trained(trained)
    np.testing.assert_array_equal(encoder.table.index, trained.table.index)
    assert not encoder.table.index[1:][hidden].any()
    events = np.expm1(5.0 * encoder.table.numeric[1:, 0])
    there_are = np.bincount(of.log.item[: of.splits.trained_rows], minlength=len(hidden))
    np.testing.assert_allclose(events, there_are, rtol=1e-4, atol=1e-4)
    history = encoder.users(of.splits.rows["test"]).history_rows
    assert np.isin(history, np.flatnonzero(hidden) + 1).any()
    assert not encoder.tensors(of.splits.rows["test"])["history_index"][
        np.isin(history, np.flatnonzero(hidden) + 1)
    ].any()


class QuickTraining:
    """A stand-in that scores by the label and by how many events an item has, and remembers what was trained."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> None:
        self.trained: list[tuple[str, int]] = []
        self.stop_after = stop_after

        def model(variant: ColdVariant, encoder: SampleEncoder, splits: Any, seed: int) -> Any:
            if len(self.trained) == self.stop_after:
                raise KeyboardInterrupt
            self.trained.append((variant.name, seed))

            def score(judged: SampleEncoder, rows: IntArray) -> FloatArray:
                noise = np.random.default_rng(seed).normal(size=len(rows)) * (1.0 if variant.producers else 2.0)
                signal = (2 * judged.labels[rows] - 1) * (1.0 + judged.numeric[rows, 0])
                return np.asarray(1 / (1 + np.exp(-signal - noise)), np.float32)

            return score

        monkeypatch.setattr(cold_items, "_model", model)


def study(data: Synthetic) -> ColdItems:
    return ColdItems(data.config, data.catalogue, data.log, data.knowledge, data.config.workdir / "cold-items")


def test_a_stopped_study_goes_on_where_it_was(data: Synthetic, monkeypatch: pytest.MonkeyPatch) -> None:
    variants = cold_variants(data.config, text=True)
    first = QuickTraining(monkeypatch, stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        study(data).run(variants, 2, "test")
    rest = QuickTraining(monkeypatch)
    rows = study(data).run(variants, 2, "test")
    names = [variant.name for variant in variants]
    assert first.trained + rest.trained == [(name, seed) for name in names for seed in (1, 2)]
    again = QuickTraining(monkeypatch)
    assert study(data).run(variants, 2, "test") == rows
    study(data).run(variants, 2, "validation")
    assert not again.trained
    other = data.config.training.model_copy(update={"dropout": 0.5})
    config = data.config.model_copy(update={"training": other})
    study(data).run([ColdVariant("other settings", config)], 1, "test")
    assert again.trained == [("other settings", 1)]


def test_rows_are_of_known_items_and_of_hidden_ones(data: Synthetic, monkeypatch: pytest.MonkeyPatch) -> None:
    QuickTraining(monkeypatch)
    rows = study(data).run(cold_variants(data.config, text=True), 2, "test")
    assert [row.items for row in rows] == ["known", "0", "1", "5", "20"] * 2
    test = split_samples(data.config.samples, data.log).rows["test"]
    assert rows[0].samples + rows[1].samples == 2 * len(test)
    base, text = rows[:5], rows[5:]
    assert all(row.auc_difference is None for row in base)
    for row, other in zip(text, base, strict=True):
        assert row.auc_difference is not None
        assert row.logloss_difference is not None
        assert row.auc_difference.middle == pytest.approx(row.auc - other.auc)
        assert row.auc_difference.low > 0
        assert row.logloss_difference.high < 0
    assert text[1].auc < text[4].auc
    lines = cold_items_table(rows).splitlines()
    assert len(lines) == 12
    assert "| as configured, plain text | hidden, 1 event |" in lines[9]


def test_knowledge_of_behaviour_is_refused(data: Synthetic) -> None:
    with pytest.raises(DataError, match=r"marc.*name text alone"):
        study(data).run([ColdVariant("all", data.config, ("text", "marc"))], 1, "test")


def test_the_future_is_never_seen(data: Synthetic) -> None:
    """Scores of the validation part by a process whose log has another test part are the same."""
    own = LifelongConfig(factors=4, tokens=512, process_epochs=1)
    config = data.config.model_copy(update={"training": data.config.training.model_copy(update={"lifelong": own})})
    test = split_samples(config.samples, data.log).rows["test"]
    poisoned = replace(data.log, value=data.log.value.copy(), item=data.log.item.copy())
    poisoned.value[test[0] :] = 6.0 - poisoned.value[test[0] :]
    poisoned.item[test[0] :] = np.roll(poisoned.item[test[0] :], 7)
    scores = []
    for name, log in {"a": data.log, "b": poisoned}.items():
        of = ColdItems(config, data.catalogue, log, Knowledge({}), config.workdir / name)
        scores.append(of.scores(ColdVariant("process", config, process=True), 1))
    for part, equal in {"validation": True, "test": False}.items():
        first, second = scores[0][part], scores[1][part]  # type: ignore[index]
        assert (first.known.shape == second.known.shape and np.array_equal(first.known, second.known)) == equal
        for count in REVEALED:
            pair = first.hidden[count], second.hidden[count]
            assert np.array_equal(*pair) == equal
    assert not np.array_equal(scores[0]["validation"].hidden[0], scores[0]["validation"].hidden[20])
