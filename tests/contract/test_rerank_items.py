"""The file of items: round trip, look-up by the hashes of live histories, and what is refused."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from models.contract.events import item_hash
from models.contract.rerank_items import RerankItems
from models.contract.reranker import RerankerError


def items() -> RerankItems:
    vectors = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    return RerankItems.of(["1", "zwei", "3"], ["Héat", "", "Up"], ["'Héat' (1995)", "", "'Up'"], vectors)


def test_what_is_packed_comes_back() -> None:
    content = items().pack()
    back = RerankItems.unpack(content, hashlib.sha256(content).hexdigest())
    assert (list(back.ids), list(back.names), list(back.texts)) == (items().ids, items().names, items().texts)
    np.testing.assert_array_equal(back.vectors, items().vectors)
    assert back.pack() == content


def test_rows_are_found_by_id_and_by_hash() -> None:
    table = items()
    assert table.rows_of(["3", "unknown", "1"]).tolist() == [2, -1, 0]
    assert table.rows_of_hashes(np.array([item_hash("zwei")], np.uint64)).tolist() == [1]


def test_an_empty_file_knows_nothing() -> None:
    empty = RerankItems.of([], [], [], np.zeros((0, 4), np.float32))
    content = empty.pack()
    back = RerankItems.unpack(content, hashlib.sha256(content).hexdigest())
    assert len(back) == 0
    assert back.rows_of(["1"]).tolist() == [-1]


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        RerankItems.of(["1"], [], ["x"], np.zeros((1, 2), np.float32))


@pytest.mark.parametrize("damage", [b"", b"not a zip", None])
def test_another_file_or_a_damaged_one_is_refused(damage: bytes | None) -> None:
    content = items().pack()
    digest = hashlib.sha256(content).hexdigest()
    if damage is None:
        with pytest.raises(RerankerError, match="not the one"):
            RerankItems.unpack(content[:-1], digest)
    else:
        with pytest.raises(RerankerError, match="damaged"):
            RerankItems.unpack(damage, hashlib.sha256(damage).hexdigest())
