"""A frozen compressor gives a text the same bits in any company, and survives the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.contract.arrays import FloatArray
from offline.data.catalogue import DataError
from offline.data.files import write_arrays
from offline.knowledge.marc.frozen import Compressor, FrozenMap

WIDTH, HIDDEN, DIM = 96, 40, 16


def drawn(*shape: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def network(seed: int = 0) -> FrozenMap:
    weights = 0.1 * drawn(HIDDEN, WIDTH, seed=seed), 0.1 * drawn(DIM, HIDDEN, seed=seed + 1)
    biases = drawn(HIDDEN, seed=seed + 2), drawn(DIM, seed=seed + 3)
    return FrozenMap(drawn(WIDTH, seed=seed + 4), np.abs(drawn(WIDTH, seed=seed + 5)), weights, biases)


def plain() -> FrozenMap:
    return FrozenMap(drawn(WIDTH), np.full(WIDTH, 0.5, np.float32))


def test_the_map_is_the_formula() -> None:
    frozen, states = network(), drawn(5, WIDTH, seed=9)
    inner = np.maximum((states - frozen.centre) * frozen.scale @ frozen.weights[0].T + frozen.biases[0], 0.0)
    np.testing.assert_allclose(
        frozen.compress(states), inner @ frozen.weights[1].T + frozen.biases[1], rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(plain().compress(states), (states - drawn(WIDTH)) * 0.5, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("frozen", [network(), plain()], ids=["network", "plain"])
def test_bits_do_not_depend_on_the_rows_beside(frozen: FrozenMap) -> None:
    states = drawn(700, WIDTH, seed=9)
    whole = frozen.compress(states)
    order = np.random.default_rng(1).permutation(700)
    np.testing.assert_array_equal(frozen.compress(states[order]), whole[order])
    for part in (slice(0, 1), slice(699, 700), slice(3, 300), slice(255, 513)):
        np.testing.assert_array_equal(frozen.compress(states[part]), whole[part])


def test_no_rows_and_wrong_widths() -> None:
    assert network().compress(np.zeros((0, WIDTH), np.float32)).shape == (0, DIM)
    for states in (drawn(3, WIDTH - 1), drawn(WIDTH)):
        with pytest.raises(DataError, match=f"compression of width {WIDTH}"):
            network().compress(states)


@pytest.mark.parametrize("frozen", [network(), plain()], ids=["network", "plain"])
def test_standardised_outputs_are_the_same_ones_centred_with_mean_square_one(frozen: FrozenMap) -> None:
    states = drawn(300, WIDTH, seed=9)
    before, after = frozen.compress(states), frozen.standardised(states).compress(states)
    np.testing.assert_allclose(after.mean(0), 0.0, atol=1e-5)
    assert np.square(after).mean() == pytest.approx(1.0, abs=1e-4)
    moved = before - before.mean(0)
    np.testing.assert_allclose(after * (np.linalg.norm(moved) / np.linalg.norm(after)), moved, atol=1e-4)


def test_a_saved_compressor_comes_back_to_the_bit(tmp_path: Path) -> None:
    compressor = Compressor("marc", network(), plain())
    compressor.save(tmp_path / "marc.npz")
    back = Compressor.load(tmp_path / "marc.npz")
    states = drawn(9, WIDTH)
    assert (back.method, back.digest, back.dim) == ("marc", compressor.digest, WIDTH)
    np.testing.assert_array_equal(back.compress(states, "user"), compressor.user.compress(states))
    np.testing.assert_array_equal(back.compress(states, "item"), compressor.item.compress(states))


def test_the_digest_follows_every_weight_of_both_sides() -> None:
    compressor = Compressor("marc", network(), network())
    weight = compressor.item.weights[0].copy()
    weight[0, 0] += 1e-6
    changed = FrozenMap(
        compressor.item.centre, compressor.item.scale, (weight, compressor.item.weights[1]), compressor.item.biases
    )
    digests = {
        compressor.digest,
        Compressor("marc", changed, network()).digest,
        Compressor("marc", network(), changed).digest,
    }
    assert len(digests) == 3
    assert Compressor("marc", network(), network()).digest == compressor.digest


def test_a_file_that_holds_no_compressor_is_refused(tmp_path: Path) -> None:
    write_arrays(tmp_path / "other.npz", keys=np.zeros(3))
    with pytest.raises(DataError, match="not a compressor"):
        Compressor.load(tmp_path / "other.npz")
    with pytest.raises(DataError, match="cannot be read"):
        Compressor.load(tmp_path / "absent.npz")
