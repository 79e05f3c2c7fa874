"""Versions and slices: what a sample may see, what is published, and that training sees what the service reads back."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from models.contract.knowledge import KnowledgeRecord, Space
from models.contract.schema import FeatureSchema, KnowledgeSpec
from offline.data.catalogue import DataError
from offline.data.files import write_arrays
from offline.knowledge.vectors import ItemVectors, Knowledge, Lineage, Produced, UserVectors, as_published, as_record
from tests.synthetic import synthetic

VECTORS = np.random.default_rng(3).normal(size=(5, 4)).astype(np.float32)


def space(side: Literal["user", "item"], *, name: str = "s", rows: int = 1, dtype: str = "float16") -> Space:
    shape = {"name": name, "side": side, "rows": rows, "dim": 4, "dtype": dtype}
    return Space.model_validate({**shape, "components": {}})


def users(rows: int = 2) -> UserVectors:
    """User 0 has versions since rows 3, 7 and 9, user 1 none, user 2 since rows 0 and 8."""
    codes = np.arange(10, dtype=np.uint16).reshape(5, 2)
    start, since = np.array([0, 3, 3, 5]), np.array([3, 7, 9, 0, 8])
    return UserVectors(space("user", rows=rows), VECTORS, start, since, codes)


def items() -> ItemVectors:
    vectors = np.stack([VECTORS[:3], VECTORS[2:]])
    return ItemVectors(space("item"), vectors, np.array([True, False, True]), np.array([0, 6]))


def test_a_version_is_visible_only_after_the_row_that_made_it() -> None:
    rows = np.arange(12)
    assert users().visible(np.full(12, 0), rows).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3]
    assert users().visible(np.full(12, 1), rows).tolist() == [0] * 12
    assert users().visible(np.full(12, 2), rows).tolist() == [0] + [1] * 8 + [2] * 3


def test_the_last_rows_are_published() -> None:
    np.testing.assert_array_equal(users().of_user(0), VECTORS[1:3])
    np.testing.assert_array_equal(users(rows=1).of_user(0), VECTORS[2:3])
    assert users().of_user(1).shape == (0, 4)


def test_the_last_slice_is_published() -> None:
    np.testing.assert_array_equal(items().published, VECTORS[2:])


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_each_row_equals_its_record(dtype: str) -> None:
    of_dtype = space("item", dtype=dtype)
    published = as_published(VECTORS, of_dtype)
    assert published.dtype == np.float32
    assert not np.array_equal(published, VECTORS)
    for row, original in zip(published, VECTORS, strict=True):
        packed = KnowledgeRecord("i", of_dtype.fingerprint, original[None], 0, 0).pack(of_dtype.dtype)
        np.testing.assert_array_equal(row, KnowledgeRecord.unpack(packed, "i", of_dtype.fingerprint).vectors[0])
        np.testing.assert_array_equal(row, as_record(original[None], of_dtype)[0])


def test_zeros_stay_zeros_in_int8() -> None:
    assert not as_published(np.zeros((2, 4), np.float32), space("item", dtype="int8")).any()


def test_it_reads_back(tmp_path: Path) -> None:
    lineage = Lineage(3, 3, "of users", "of items")
    produced = Produced(users(), items(), {"a": "likes tests — “ünï”"}, lineage, partial=True)
    produced.save(tmp_path)
    assert Produced.is_saved(tmp_path)
    read = Produced.load(tmp_path)
    assert (read.spaces, dict(read.texts)) == (produced.spaces, {"a": "likes tests — “ünï”"})
    assert (read.lineage, read.partial) == (lineage, True)
    assert read.users is not None
    assert read.items is not None
    for name in ("vectors", "start", "since", "codes"):
        np.testing.assert_array_equal(getattr(read.users, name), getattr(produced.users, name))
    for name in ("vectors", "known", "from_row"):
        np.testing.assert_array_equal(getattr(read.items, name), getattr(produced.items, name))
    assert read.items.codes is None


def test_the_same_knowledge_is_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        Produced(users(), items(), {"a": "likes tests"}, Lineage(3, 3, "", "")).save(tmp_path / folder)
    first, second = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert first == second


def test_a_kill_at_any_moment_of_saving_leaves_one_whole_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Produced(items=items(), texts={"a": "before"})
    after = Produced(items=replace(items(), space=space("item", name="t"), vectors=-items().vectors), texts={"a": "b"})
    before.save(tmp_path)
    put, left = os.replace, 0

    def killed(source: str, target: str) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        put(source, target)

    monkeypatch.setattr("offline.data.files.os.replace", killed)
    for moment in range(3):
        left = moment
        with suppress(KeyboardInterrupt):
            after.save(tmp_path)
        read = Produced.load(tmp_path)
        (whole,) = (produced for produced in (before, after) if produced.spaces == read.spaces)
        assert read.texts == whole.texts
        assert read.items is not None
        assert whole.items is not None
        np.testing.assert_array_equal(read.items.vectors, whole.items.vectors)


@pytest.mark.parametrize("document", ['{"spaces": [{"name": "s"}], "texts": {}}', "{", "[]"])
def test_knowledge_of_another_version_is_a_clear_error(tmp_path: Path, document: str) -> None:
    write_arrays(tmp_path / "vectors.npz", document=np.frombuffer(document.encode(), np.uint8))
    with pytest.raises(DataError, match="another version"):
        Produced.load(tmp_path)


def test_what_was_never_saved_is_not_there(tmp_path: Path) -> None:
    assert not Produced.is_saved(tmp_path)
    write_arrays(tmp_path / "vectors.npz", item_vectors=VECTORS)
    assert not Produced.is_saved(tmp_path)
    (tmp_path / "vectors.npz").write_bytes(b"torn")
    assert not Produced.is_saved(tmp_path)


def test_a_lineage_fits_the_log_that_it_is_of_and_all_that_this_grows_to(tmp_path: Path) -> None:
    log = synthetic(tmp_path, users=3, items=4, events=3).log
    lineage = Lineage.of(log)
    assert lineage.fits(log)
    assert lineage.fits(replace(log, user_ids=(*log.user_ids, "new"), item_ids=(*log.item_ids, "new")))
    assert not lineage.fits(replace(log, user_ids=log.user_ids[::-1]))
    assert not lineage.fits(replace(log, item_ids=log.item_ids[:-1]))


def test_knowledge_leaves_out_what_no_producer_made() -> None:
    configured = FeatureSchema(
        name="w",
        user_fields=(),
        item_fields=(),
        history_length=2,
        knowledge=(KnowledgeSpec(name="s", side="user", rows=2, dim=4), KnowledgeSpec(name="t", side="item", dim=4)),
    )
    knowledge = Knowledge({"s": Produced(users=users())})
    assert [spec.key for spec in knowledge.schema(configured).knowledge] == ["user/s"]
    assert knowledge.of_user(1) == {}
    np.testing.assert_array_equal(knowledge.of_user(0)["s"], as_record(VECTORS[1:3], users().space))
    assert knowledge.fits(3, 99)
    assert not knowledge.fits(4, 99)
    assert not Knowledge({"s": Produced(items=replace(items(), known=np.ones(2, np.bool_)))}).fits(3, 3)
