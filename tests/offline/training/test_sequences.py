"""Whole histories as training input: every sample once, in a stretch that sees what the sample encoder says it sees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.contract.arrays import IntArray
from models.contract.encoding import HISTORY_INPUTS, ITEM_INPUTS
from models.contract.schema import RunningSpec
from offline.data.catalogue import DataError
from offline.training.samples import SampleEncoder, split_samples
from offline.training.sequences import Batch, SequenceEncoder
from tests.synthetic import SCHEMA, SLICES, Synthetic, knowledge_of, synthetic

EVENTS = 30
LONG = SCHEMA.model_copy(update={"history_length": EVENTS + 10, "running": RunningSpec(half_lives_days=(0.5,))})
CHOICES: tuple[tuple[str, ...], ...] = (("text", "liber", "marc"), ("text",), ())
"""Items of several slices, of a single one, and none."""

of_any_size = pytest.mark.parametrize("tokens", [1, 40, 500, 10**6])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    """Users with few events and with many, values outside the scale, and releases at other rows than the slices."""
    source = synthetic(tmp_path_factory.mktemp("synthetic"), seed=5, users=50, events=EVENTS)
    dropped = (source.log.user % 3 == 0) & (np.arange(len(source.log)) % 2 == 0)
    log = replace(
        source.log,
        **{name: getattr(source.log, name)[~dropped] for name in ("user", "item", "value", "time_ms", "sampled")},
    )
    log.value[::50] = 9.0
    return replace(source, log=log, knowledge=knowledge_of(source.catalogue, log))


@pytest.fixture(scope="module")
def trained_rows(data: Synthetic) -> int:
    return split_samples(data.config.samples, data.log).trained_rows


@pytest.fixture(scope="module")
def encoder(data: Synthetic, trained_rows: int) -> SampleEncoder:
    return encoder_of(data, trained_rows)


def encoder_of(data: Synthetic, trained_rows: int, producers: tuple[str, ...] = CHOICES[0]) -> SampleEncoder:
    schema = LONG.with_knowledge(producers)
    return SampleEncoder(schema, data.catalogue, data.log, data.knowledge, trained_rows)


def some_rows(data: Synthetic, seed: int, share: float) -> IntArray:
    """So many of the log's rows, in any order."""
    n = len(data.log)
    return np.random.default_rng(seed).permutation(n)[: int(share * n)].astype(np.int64)


def sampled(batches: list[Batch]) -> IntArray:
    return np.concatenate([batch.rows[batch.sample] for batch in batches])


@of_any_size
@pytest.mark.parametrize("share", [1.0, 0.3, 0.01])
def test_every_sample_comes_once(data: Synthetic, encoder: SampleEncoder, tokens: int, share: float) -> None:
    sequences, rows = SequenceEncoder(encoder), some_rows(data, 1, share)
    expected = np.sort(rows).tolist()
    assert np.sort(sampled(list(sequences.once(rows, tokens)))).tolist() == expected
    passes = list(sequences.epochs(rows, tokens, 3, seed=4))
    for epoch in range(3):
        of_epoch = [batch for progress, batch in passes if int(progress * 3 + 1e-9) == epoch]
        assert np.sort(sampled(of_epoch)).tolist() == expected


@of_any_size
def test_batches_are_as_large_as_wanted_or_hold_one_stretch(
    data: Synthetic, encoder: SampleEncoder, tokens: int
) -> None:
    sequences, rows = SequenceEncoder(encoder), some_rows(data, 2, 0.5)
    once = list(sequences.once(rows, tokens))
    trained = [batch for _, batch in sequences.epochs(rows, tokens, 1, seed=4)]
    for batch in once + trained:
        assert batch.rows.size <= tokens or len(batch.rows) == 1
        assert (batch.tensors["present"].sum(axis=0) > 0).all()  # no wider than the longest
    assert sequences.steps(rows, tokens) == len(once)
    assert len(once) == (1 if tokens == 10**6 else len(sequences.stretches(rows).user) if tokens == 1 else len(once))


def test_padding_is_little(data: Synthetic, encoder: SampleEncoder) -> None:
    sequences, rows = SequenceEncoder(encoder), some_rows(data, 2, 0.5)
    present = np.concatenate([batch.tensors["present"].ravel() for _, batch in sequences.epochs(rows, 256, 2, seed=4)])
    assert present.mean() > 0.8


def test_stretches_do_not_cross_releases_and_slices(data: Synthetic, encoder: SampleEncoder, trained_rows: int) -> None:
    rows = some_rows(data, 3, 0.7)
    borders = np.union1d(encoder.releases.from_row, encoder.slices.from_row)
    assert {*SLICES[:2], trained_rows} <= set(borders.tolist())  # there are both
    assert len(borders) > len(encoder.releases.from_row)
    seen = set()
    for batch in SequenceEncoder(encoder).once(rows, 500):
        for row, sample in zip(batch.rows, batch.sample, strict=True):
            of_stretch = np.searchsorted(borders, row[sample], side="right")
            assert len(set(of_stretch.tolist())) == 1
            user, period = int(data.log.user[row[0]]), int(of_stretch[0])
            assert (user, period) not in seen  # nor is one cut in two
            seen.add((user, period))


def test_a_stretch_has_all_the_history_before_it(data: Synthetic, encoder: SampleEncoder) -> None:
    for batch in SequenceEncoder(encoder).once(some_rows(data, 4, 0.5), 300):
        for row, sample, present in zip(batch.rows, batch.sample, batch.tensors["present"] > 0, strict=True):
            last = int(row[sample][-1])
            mine = np.flatnonzero(data.log.user == data.log.user[last])
            assert row[present].tolist() == mine[mine <= last].tolist()
            assert not sample[~present].any()


@pytest.mark.parametrize("producers", CHOICES, ids=lambda names: "+".join(names) or "none")
@pytest.mark.parametrize("seed", [1, 2])
def test_a_sample_has_in_its_stretch_what_the_sample_encoder_says(
    data: Synthetic, trained_rows: int, producers: tuple[str, ...], seed: int
) -> None:
    encoder = encoder_of(data, trained_rows, producers)
    compared = 0
    for batch in SequenceEncoder(encoder).once(some_rows(data, seed, 0.3), 700):
        of_user, at = np.nonzero(batch.sample)
        alone = encoder.tensors(batch.rows[of_user, at])
        tensors = batch.tensors
        for name in (*ITEM_INPUTS, "user_vectors", "user_numeric", "user_running"):
            np.testing.assert_array_equal(tensors[name][of_user, at], alone[name], name)
            assert tensors[name].dtype == alone[name].dtype
        np.testing.assert_array_equal(tensors["user_categorical"][of_user], alone["user_categorical"])
        if "liber" in producers:
            for sample in range(len(of_user)):
                count, closed = (
                    tensors["partition_counts"][of_user[sample], at[sample]],
                    alone["partition_mask"][sample],
                )
                seen = tensors["partition_vectors"][of_user[sample], :count][-len(closed) :]
                np.testing.assert_array_equal(seen, alone["partition_vectors"][sample][closed > 0])
        width = min(tensors["value"].shape[1], alone["history_mask"].shape[1])
        present = np.arange(width)[None] < at[:, None]
        for name in HISTORY_INPUTS:
            stretch = {
                "history_mask": np.ones(batch.rows.shape, np.float32),
                "history_value": tensors["value"],
                "history_numeric": tensors["history_numeric"],
                "history_hours": _hours_before(tensors["time_ms"], of_user, at),
            }.get(name, tensors.get(name.replace("history", "item")))
            assert stretch is not None
            assert stretch.dtype == alone[name].dtype
            of_sample = stretch if name == "history_hours" else stretch[of_user]
            cut, served = of_sample[:, :width], alone[name][:, :width]
            np.testing.assert_array_equal(cut[present], served[present], name)
            assert not alone[name][:, width:].any()
            assert not served[~present].any()
        compared += len(at)
    assert compared == int(0.3 * len(data.log))


def _hours_before(time_ms: NDArray[Any], of_user: IntArray, at: IntArray) -> NDArray[np.float32]:
    """How many hours [samples, L] each event of a stretch came before each sample."""
    ago = time_ms[of_user, at][:, None] - time_ms[of_user]
    return np.asarray(np.maximum(ago, 0) / 3_600_000.0, np.float32)


def test_values_are_those_of_the_scale(data: Synthetic, encoder: SampleEncoder) -> None:
    rows = np.arange(len(data.log))
    (batch,) = SequenceEncoder(encoder).once(rows, 10**6)
    expected = (np.minimum(data.log.value[batch.rows], 5.0) - 3.0) / 2.0
    np.testing.assert_array_equal(batch.tensors["value"], expected)
    levels = np.unique(SequenceEncoder(encoder).value[rows])
    assert levels.tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]
    low = np.flatnonzero(data.log.value < 3.0)
    assert np.unique(SequenceEncoder(encoder).value[low]).tolist() == [-1.0, -0.5]


def test_the_order_is_repeatable_for_a_seed_and_differs_otherwise(data: Synthetic, encoder: SampleEncoder) -> None:
    sequences, rows = SequenceEncoder(encoder), some_rows(data, 1, 0.5)

    def order(seed: int) -> list[list[int]]:
        return [batch.rows[batch.sample].tolist() for _, batch in sequences.epochs(rows, 200, 2, seed)]

    first = order(1)
    assert first == order(1)
    assert first != order(2)
    half = len(first) // 2
    assert first[:half] != first[half:]  # no epoch is like another


def test_progress_rises_from_nothing_to_almost_one(data: Synthetic, encoder: SampleEncoder) -> None:
    rows = some_rows(data, 1, 0.5)
    progress = [at for at, _ in SequenceEncoder(encoder).epochs(rows, 200, 3, seed=1)]
    assert progress[0] == 0.0
    assert (np.diff(progress) > 0).all()
    assert 1.0 - 2 / len(progress) < progress[-1] < 1.0


def test_no_rows_are_no_batches(encoder: SampleEncoder) -> None:
    """A fold may be empty."""
    assert list(SequenceEncoder(encoder).once(np.zeros(0, np.int64), 100)) == []


def test_a_log_with_drawn_negatives_is_refused(data: Synthetic) -> None:
    log = data.log.with_sampled(np.array([100, 200]), np.array([3, 4], np.int32))
    drawn = replace(data, log=log, knowledge=knowledge_of(data.catalogue, log))
    with pytest.raises(DataError, match="drawn negatives"):
        SequenceEncoder(encoder_of(drawn, 900))
