"""The peers' arrays: the product's samples, and nothing that comes after a sample or from others after training.

As in tests/offline/training/test_leaks.py the future is replaced, everything is made again, and a sample's features are
compared byte for byte; then the same is done to arrays with leaks built in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from offline.data.log import InteractionLog, UserIndex
from offline.training.samples import Split, split_samples
from offline.training.statistics import running_statistics
from research.quality.peers import events
from research.quality.peers import samples as peers
from research.quality.peers.samples import RECENT, SPLITS, PeerSamples, peer_samples
from tests.synthetic import SCHEMA, Synthetic, synthetic


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return synthetic(tmp_path_factory.mktemp("synthetic"), seed=11, users=25, items=15, events=30)


@pytest.fixture(scope="module")
def samples(data: Synthetic) -> PeerSamples:
    return samples_of(data, data.log)


def samples_of(data: Synthetic, log: InteractionLog) -> PeerSamples:
    return peer_samples(data.config, data.catalogue, log)


def features(samples: PeerSamples, place: int) -> dict[str, bytes]:
    """All that a peer may see of a sample, and not the label."""
    item = samples.item[place]
    values = {name: cells[place].tobytes() for name, cells in samples.user_fields.items()}
    values |= {name: cells[item].tobytes() for name, cells in samples.item_fields.items()}
    values |= {name: samples.statistics[place, at].tobytes() for at, name in enumerate(samples.statistic_names)}
    for name in ("user", "item", "history", "history_values"):
        values[name] = getattr(samples, name)[place].tobytes()
    first = int(samples.events.start[samples.user[place]])
    past = slice(first, first + int(samples.earlier[place]))
    values["events"] = samples.events.item[past].tobytes() + samples.events.value[past].tobytes()
    return values


def replaced(log: InteractionLog, where: npt.NDArray[np.bool_], row: int) -> InteractionLog:
    """Other items, values and times at ``where``; ``row`` keeps its item and time, and its label is turned around. Who
    acts stays, so that the samples are the same ones."""
    generator = np.random.default_rng(row)
    n = int(where.sum())
    item, value, time_ms = log.item.copy(), log.value.copy(), log.time_ms.copy()
    item[where] = generator.integers(len(log.item_ids), size=n)
    value[where] = generator.choice(np.array([1, 2, 3, 4, 5], np.float32), size=n)
    time_ms[where] += generator.integers(10**9, size=n)
    item[row], time_ms[row] = log.item[row], log.time_ms[row]
    if where[row]:
        value[row] = 1.0 if log.value[row] > SCHEMA.liked_above else 5.0
    return replace(log, item=item, value=value, time_ms=time_ms)


def some_places(samples: PeerSamples, split: Split) -> list[int]:
    places = samples.of(split)
    chosen: list[int] = np.random.default_rng(7).choice(places, min(30, len(places) // 2), replace=False).tolist()
    return chosen


def changed(data: Synthetic, split: Split, where: Callable[[int], npt.NDArray[np.bool_]]) -> set[str]:
    """Features of random samples that change when the rows ``where(row)`` do."""
    before, leaks = samples_of(data, data.log), set[str]()
    for place in some_places(before, split):
        row = int(before.rows[place])
        after = samples_of(data, replaced(data.log, where(row), row))
        inputs, changed_inputs = features(before, place), features(after, place)
        leaks |= {name for name in inputs if inputs[name] != changed_inputs[name]}
    return leaks


def future_leaks(data: Synthetic, split: Split) -> set[str]:
    return changed(data, split, lambda row: np.arange(len(data.log)) >= row)


def neighbour_leaks(data: Synthetic, split: Split) -> set[str]:
    after = np.arange(len(data.log)) >= split_samples(data.config.samples, data.log).trained_rows
    return changed(data, split, lambda row: after & (data.log.user != data.log.user[row]))


@pytest.mark.parametrize("split", list(SPLITS))
def test_the_future_changes_nothing(data: Synthetic, split: Split) -> None:
    assert future_leaks(data, split) == set()


@pytest.mark.parametrize("split", ["validation", "test"])
def test_what_others_do_after_training_changes_nothing(data: Synthetic, split: Split) -> None:
    assert neighbour_leaks(data, split) == set()


def test_the_past_does_change_features(data: Synthetic, samples: PeerSamples) -> None:
    """The comparison looks at something: every statistic and the history come from the past."""
    past = changed(data, "test", lambda row: np.arange(len(data.log)) < row)
    # every user has thirty interactions, whatever they are: how many came before is all that cannot change here
    assert past == {*samples.statistic_names, "history", "history_values", "events"} - {"user_log_count"}


def test_a_users_own_later_behaviour_is_seen_in_the_test_period(data: Synthetic) -> None:
    trained = split_samples(data.config.samples, data.log).trained_rows
    rows = np.arange(len(data.log))
    own = changed(data, "test", lambda r: (rows >= trained) & (rows < r) & (data.log.user == data.log.user[r]))
    assert {"history", "history_values", "user_mean_value", "user_surplus", "user_recent_liked"} <= own
    assert not {name for name in own if name.startswith("item_")}


def test_leaks_would_be_noticed(data: Synthetic, monkeypatch: pytest.MonkeyPatch) -> None:
    def never_frozen(schema: Any, log: Any, owner: Any, until: int) -> Any:
        return running_statistics(schema, log, owner, len(data.log))

    monkeypatch.setattr(peers, "running_statistics", never_frozen)
    assert "item_mean_value" in neighbour_leaks(data, "test")
    monkeypatch.undo()
    honest = peers._Past.__init__

    def with_the_sample_itself(self: peers._Past, log: InteractionLog, index: UserIndex) -> None:
        honest(self, log, index)
        self._end = self._end + 1

    monkeypatch.setattr(peers._Past, "__init__", with_the_sample_itself)
    assert {"user_surplus", "user_recent_value"} <= future_leaks(data, "train")


def test_they_are_the_products_samples(data: Synthetic, samples: PeerSamples) -> None:
    splits = split_samples(data.config.samples, data.log)
    for split, rows in splits.rows.items():
        assert samples.rows[samples.of(split)].tolist() == rows.tolist()
    assert samples.label.tolist() == (data.log.value[samples.rows] > SCHEMA.liked_above).tolist()
    assert samples.user.tolist() == data.log.user[samples.rows].tolist()
    age, genres = samples.user_fields["age"], samples.item_fields["genres"]
    assert (age.shape, genres.shape) == ((len(samples), 1), (len(data.log.item_ids), 2))
    first = data.catalogue.items[data.log.item_ids[0]]["genres"]
    assert genres[0].tolist() == SCHEMA.item_fields[0].encode(first)


def test_history_and_statistics_by_hand(data: Synthetic, samples: PeerSamples) -> None:
    log, trained = data.log, split_samples(data.config.samples, data.log).trained_rows
    for place in [*some_places(samples, "train"), *some_places(samples, "test")]:
        row = int(samples.rows[place])
        own = [r for r in range(row) if log.user[r] == log.user[row]]
        seen = own[-SCHEMA.history_length :]
        padding = [0] * (SCHEMA.history_length - len(seen))
        assert samples.history[place].tolist() == [int(log.item[r]) + 1 for r in seen] + padding
        assert samples.history_values[place].tolist() == [float(log.value[r]) for r in seen] + padding
        statistics = dict(zip(samples.statistic_names, samples.statistics[place].tolist(), strict=True))

        surplus = {r: surplus_of(log, r, trained) for r in own}
        recent = own[-RECENT:]
        shared = [
            surplus[r]
            for r in own
            for genre in samples.item_fields["genres"][log.item[r]]
            if genre and genre in samples.item_fields["genres"][log.item[row]]
        ]
        assert statistics["user_surplus"] == pytest.approx(sum(surplus.values()) / (len(own) + 5), abs=1e-5)
        assert statistics["user_recent_surplus"] == pytest.approx(
            sum(surplus[r] for r in recent) / (len(recent) + 5), abs=1e-5
        )
        assert statistics["user_recent_liked"] == pytest.approx(
            sum((log.value[r] > 3) - 0.5 for r in recent) / (len(recent) + 5), abs=1e-5
        )
        assert statistics["user_surplus_of_genres"] == pytest.approx(sum(shared) / (len(shared) + 5), abs=1e-5)
        days = (log.time_ms[row] - log.time_ms[own[-1]]) / 86_400_000
        assert statistics["user_log_days_since_last"] == pytest.approx(np.log1p(days), abs=1e-6)


@pytest.mark.parametrize("length", [1, 7, 100])
def test_histories_are_cut_to_any_length(
    data: Synthetic, samples: PeerSamples, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "BLOCK", 100)  # several blocks
    items, values = samples.events.last(samples.user, samples.earlier, length)
    schema = data.config.feature_schema.model_copy(update={"history_length": length})
    whole = peer_samples(data.config.model_copy(update={"feature_schema": schema}), data.catalogue, data.log)
    np.testing.assert_array_equal(items, whole.history)
    np.testing.assert_array_equal(values, whole.history_values)
    for place in some_places(samples, "test"):
        own = [r for r in range(samples.rows[place]) if data.log.user[r] == samples.user[place]]
        assert items[place][items[place] > 0].tolist() == [int(data.log.item[r]) + 1 for r in own[-length:]]


def surplus_of(log: InteractionLog, row: int, trained: int) -> float:
    others = [float(log.value[r]) for r in range(min(row, trained)) if log.item[r] == log.item[row]]
    return float(log.value[row]) - (3 + sum(value - 3 for value in others) / (len(others) + 10))


def test_drawn_negatives_are_samples_and_nothing_else(data: Synthetic, samples: PeerSamples) -> None:
    """Before and after they are drawn, the first samples that were really there see the same."""
    before = np.array([400, 401, 500])
    drawn = samples_of(data, data.log.with_sampled(before, np.array([1, 2, 3], np.int32)))
    moved = samples.rows + np.searchsorted(before, samples.rows, side="right")  # a draw lies right before its positive
    first = np.unique(data.log.item, return_index=True)[1]
    either = ~np.isin(samples.rows, first)  # what nobody had met could not have been drawn
    assert len(drawn) == either.sum() + 3
    assert np.isin(moved[either], drawn.rows).all()
    for place in np.flatnonzero(either)[400:480].tolist():
        assert features(drawn, int(np.searchsorted(drawn.rows, moved[place]))) == features(samples, place)


def test_a_field_that_no_item_has(data: Synthetic, tmp_path: Path) -> None:
    bare = replace(data, catalogue=replace(data.catalogue, items={}))
    samples = samples_of(bare, data.log)
    column = samples.statistics[:, samples.statistic_names.index("user_surplus_of_genres")]
    assert not column.any()
    assert np.isfinite(samples.statistics).all()


def test_fractions_of_the_training_samples_are_nested(samples: PeerSamples) -> None:
    tenth, half = samples.training(0.1, 3), samples.training(0.5, 3)
    assert set(tenth) < set(half) < set(samples.of("train"))
    assert len(half) == round(0.5 * len(samples.of("train")))
    assert set(samples.training(0.1, 4)) != set(tenth)
    assert samples.training(1.0, 3).tolist() == samples.of("train").tolist()


def test_one_users_request(samples: PeerSamples) -> None:
    request = samples.one_user(500, 1)
    assert len(request) == 500
    assert len(set(request.user)) == 1
    assert len(np.unique(request.history, axis=0)) == len(set(request.earlier)) == 1
    assert len(set(request.item)) > 1
