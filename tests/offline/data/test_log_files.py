"""The interaction log on disk: ids exactly, appends that keep files, parts by user, and no half of it after a kill."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offline.data import log_files
from offline.data.catalogue import DataError
from offline.data.files import read_json
from offline.data.log import COLUMNS, MANIFEST, InteractionLog
from offline.data.log_files import read_parts

FORMER = Path(__file__).with_name("former_log.npz")
"""A log that version 0.1.0 saved before there were Parquet files."""

ODD_IDS = (
    "",
    "\0",
    "a",
    "a\0",
    "a\0b",
    "\ud800",
    "\udfff\ud800",
    "x" * 10_000,
    "é",
    "日本",
    "\U0001f600",
    "\U0010ffff",
    " a ",
    "1.0",
)


def log_of(user_ids: Sequence[str], item_ids: Sequence[str], rows: int, seed: int = 0) -> InteractionLog:
    """Random rows, a few of them drawn."""
    random = np.random.default_rng(seed)
    columns: dict[str, Any] = {
        "user": random.integers(0, len(user_ids), rows).astype(np.int32),
        "item": random.integers(0, len(item_ids), rows).astype(np.int32),
        "value": random.random(rows).astype(np.float32),
        "time_ms": random.integers(0, 2**53, rows),
        "sampled": random.random(rows) < 0.2,
    }
    return InteractionLog.of(tuple(user_ids), tuple(item_ids), columns, f"{rows}-0")


def first_rows(log: InteractionLog, rows: int, users: int, items: int) -> InteractionLog:
    """The log as it was when it had so many of each."""
    columns = {name: getattr(log, name)[:rows] for name in COLUMNS}
    return InteractionLog.of(log.user_ids[:users], log.item_ids[:items], columns, f"{rows}-0")


def grown(sizes: Sequence[int]) -> list[InteractionLog]:
    """One log after each of several refreshes: rows of ``sizes``, a user and an item to each ten of them."""
    log = log_of([f"u{at}" for at in range(sizes[-1])], [f"i{at}" for at in range(sizes[-1])], sizes[-1])
    few = np.arange(sizes[-1]) // 10
    log = replace(log, user=np.minimum(log.user, few).astype(np.int32), item=np.minimum(log.item, few).astype(np.int32))
    return [first_rows(log, size, size // 10 + 1, size // 10 + 1) for size in sizes]


def assert_same(read: InteractionLog, log: InteractionLog) -> None:
    assert (read.user_ids, read.item_ids, read.stream_mark) == (log.user_ids, log.item_ids, log.stream_mark)
    for name in COLUMNS:
        assert getattr(read, name).dtype == getattr(log, name).dtype
        np.testing.assert_array_equal(getattr(read, name), getattr(log, name))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


IDS = st.lists(st.text(st.characters(exclude_categories=()), max_size=30), min_size=1, max_size=20, unique=True)


@settings(max_examples=60, deadline=None)
@given(users=IDS, items=IDS, rows=st.integers(0, 40), seed=st.integers(0, 99))
def test_any_log_reads_back(
    tmp_path_factory: pytest.TempPathFactory, users: list[str], items: list[str], rows: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    log = log_of(users, items, rows, seed)
    log.save(folder / "log")
    assert_same(InteractionLog.load(folder / "log"), log)
    shutil.rmtree(folder)


def test_odd_ids_read_back(tmp_path: Path) -> None:
    log = log_of(ODD_IDS, ODD_IDS[::-1], 300)
    log.save(tmp_path / "log")
    assert_same(InteractionLog.load(tmp_path / "log"), log)


def test_a_folder_may_have_the_name_of_a_former_file(tmp_path: Path) -> None:
    log = InteractionLog.sorted_by_time([("u", "i", 5.0, 1)], [], [])
    for _ in range(2):
        log.save(tmp_path / "log.npz")
    assert InteractionLog.load(tmp_path / "log.npz").user_ids == ("u",)


def test_users_and_items_without_rows_read_back(tmp_path: Path) -> None:
    log = InteractionLog.sorted_by_time([], ["u"], ["a", "b"])
    assert not InteractionLog.is_saved(tmp_path / "log")
    log.save(tmp_path / "log")
    assert InteractionLog.is_saved(tmp_path / "log")
    assert_same(InteractionLog.load(tmp_path / "log"), log)
    InteractionLog.sorted_by_time([], [], []).save(tmp_path / "log")
    assert_same(InteractionLog.load(tmp_path / "log"), InteractionLog.sorted_by_time([], [], []))


def test_a_long_id_costs_its_own_length(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    long = "".join(map(chr, generator.integers(97, 123, 10_000)))
    names = [f"user-{at}" for at in range(3000)]
    log_of(names, ["i"], 3000).save(tmp_path / "short")
    log_of([*names[:-1], long], ["i"], 3000).save(tmp_path / "long")
    sizes = [sum(map(len, files_of(tmp_path / name).values())) for name in ("short", "long")]
    assert 0 < sizes[1] - sizes[0] < len(long)


def test_an_append_keeps_the_files_before_it(tmp_path: Path) -> None:
    before, after = grown([1000, 1100])
    before.save(tmp_path / "log")
    files = files_of(tmp_path / "log")
    after.save(tmp_path / "log")
    assert_same(InteractionLog.load(tmp_path / "log"), after)
    grown_files = files_of(tmp_path / "log")
    assert {name: content for name, content in files.items() if name != MANIFEST}.items() <= grown_files.items()
    assert len(grown_files) == len(files) + 3


def test_many_appends_leave_few_files(tmp_path: Path) -> None:
    logs = grown(range(10, 1500, 20))
    for log in logs:
        log.save(tmp_path / "log")
    assert len(list((tmp_path / "log").glob("rows-*"))) <= 8
    assert_same(InteractionLog.load(tmp_path / "log"), logs[-1])


def test_nothing_new_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (log,) = grown([50])
    log.save(tmp_path / "log")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", None)
        log.save(tmp_path / "log")
    marked = replace(log, stream_mark="51-0")
    files = files_of(tmp_path / "log")
    marked.save(tmp_path / "log")
    assert {name for name, content in files_of(tmp_path / "log").items() if files.get(name) != content} == {MANIFEST}
    assert_same(InteractionLog.load(tmp_path / "log"), marked)


def test_another_log_replaces_what_is_there(tmp_path: Path) -> None:
    before, after = grown([500, 600])
    after.save(tmp_path / "log")
    for log in (before, log_of(["v"], ["j"], 9), after):
        log.save(tmp_path / "log")
        assert_same(InteractionLog.load(tmp_path / "log"), log)
        assert len(files_of(tmp_path / "log")) == 4


class Killed(BaseException):
    pass


def test_a_save_that_is_killed_leaves_the_former_log_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every file that is put in place or removed; with the mark of the stream that belongs to the rows."""
    before, after = grown([1000, 1900])  # takes in the files before it
    seen = set()
    for moment in range(14):
        folder = tmp_path / str(moment)
        before.save(folder)
        steps = iter(range(moment))

        def stepping(call: Any, steps: Iterator[int] = steps) -> Any:
            def step(*arguments: Any, **options: Any) -> Any:
                if next(steps, None) is None:
                    raise Killed
                return call(*arguments, **options)

            return step

        with monkeypatch.context() as patch, suppress(Killed):
            patch.setattr(os, "replace", stepping(os.replace))
            patch.setattr(Path, "unlink", stepping(Path.unlink))
            after.save(folder)
        read = InteractionLog.load(folder)
        seen.add(len(read))
        assert_same(read, after if len(read) == len(after) else before)
        after.save(folder)
        assert_same(InteractionLog.load(folder), after)
        assert len(files_of(folder)) == 4
    assert seen == {1000, 1900}
    assert next(steps, None) is not None, "there were more moments than that"


def test_a_reader_whose_files_are_replaced_reads_the_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = grown([1000, 1900])
    before.save(tmp_path / "log")
    scan, saved = pl.scan_parquet, list[InteractionLog]()

    def late(*arguments: Any, **options: Any) -> pl.LazyFrame:
        if not saved:
            saved.append(after)
            after.save(tmp_path / "log")
        return scan(*arguments, **options)

    monkeypatch.setattr(pl, "scan_parquet", late)
    assert_same(InteractionLog.load(tmp_path / "log"), after)


@pytest.mark.parametrize("count", [1, 3, 64])
def test_parts_are_the_log_each_user_in_one_of_them(tmp_path: Path, count: int) -> None:
    logs = [log_of([*ODD_IDS, *(f"u{at}" for at in range(80))], ODD_IDS, rows) for rows in (400, 500)]
    for log in logs:
        log.save(tmp_path / "log")
    whole, parts = logs[-1], list(read_parts(tmp_path / "log", count))
    assert len(parts) == count
    assert sorted(np.concatenate([part.users for part in parts]).tolist()) == list(range(len(whole.user_ids)))
    assert sorted(np.concatenate([part.rows for part in parts]).tolist()) == list(range(len(whole)))
    for part in parts:
        log = part.log
        assert log.user_ids == tuple(whole.user_ids[user] for user in part.users)
        assert log.item_ids == tuple(whole.item_ids[item] for item in part.items)
        np.testing.assert_array_equal(part.users[log.user], whole.user[part.rows])
        np.testing.assert_array_equal(part.items[log.item], whole.item[part.rows])
        for name in ("value", "time_ms", "sampled"):
            np.testing.assert_array_equal(getattr(log, name), getattr(whole, name)[part.rows])
        assert (np.diff(part.rows) > 0).all()
        assert log.stream_mark == whole.stream_mark


def test_the_same_rows_of_other_users_lie_in_other_parts(tmp_path: Path) -> None:
    for letter in "ab":
        log_of([f"{letter}{at}" for at in range(80)], ["i"], 400).save(tmp_path / "log")
    parts = list(read_parts(tmp_path / "log", 4))
    assert sum(len(part.log) for part in parts) == 400
    assert {name for part in parts for name in part.log.user_ids} == {f"b{at}" for at in range(80)}


def test_a_file_that_is_gone_is_written_again(tmp_path: Path) -> None:
    log = log_of([f"u{at}" for at in range(80)], ["i"], 400)
    log.save(tmp_path / "log")
    (tmp_path / "log" / "a folder of somebody else's").mkdir()
    for name in ("rows", "users", "items"):
        (path,) = (tmp_path / "log").glob(f"{name}-*")
        path.unlink()
        log.save(tmp_path / "log")
        assert path.is_file()
        assert InteractionLog.load(tmp_path / "log").user_ids == log.user_ids


def test_row_groups_tell_which_parts_they_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a reader, also another library's, skips the others."""
    monkeypatch.setattr(log_files, "_GROUP", 100)
    log_of([f"u{at}" for at in range(500)], ["i"], 2000).save(tmp_path / "log")
    for name, rows in (("rows", 2000), ("users", 500)):
        (path,) = (tmp_path / "log").glob(f"{name}-*")
        with pyarrow.parquet.ParquetFile(path) as file:
            groups = [file.metadata.row_group(at).column(0) for at in range(file.metadata.num_row_groups)]
        assert [group.path_in_schema for group in groups] == ["part"] * (rows // 100)
        bounds = [(group.statistics.min, group.statistics.max) for group in groups]
        assert all(end <= first for (_, end), (first, _) in pairwise(bounds))
        assert bounds[0][0] < 2**13
        assert bounds[-1][1] >= 7 * 2**13


def test_the_log_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    shutil.copy(FORMER, tmp_path / "log.npz")
    assert InteractionLog.is_saved(tmp_path / "log")
    log = InteractionLog.load(tmp_path / "log")
    assert log.user_ids == ("u1", "u2", "zoë {x}", "u9", "new")
    assert log.item_ids == ("a", "b", "c", "ä", "z", "日本")
    assert log.user.tolist() == [3, 0, 0, 0, 0, 2, 2, 1, 4]
    assert log.item.tolist() == [4, 1, 2, 3, 3, 1, 0, 1, 5]
    assert log.value.tolist() == [2.0, 4.5, 0.0, 0.0, 5.0, 0.0, 3.0, 1.0, float(np.float32(0.1))]
    assert log.time_ms.tolist() == [10, *[20] * 6, 30, 2**52]
    assert np.flatnonzero(log.sampled).tolist() == [2, 3, 5]
    assert log.stream_mark == "12-3"
    log.save(tmp_path / "log")
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    assert_same(InteractionLog.load(tmp_path / "log"), log)


def test_an_earlier_log_may_lack_the_mark_of_sampled_rows_but_nothing_else(tmp_path: Path) -> None:
    with np.load(FORMER) as arrays:
        columns: dict[str, Any] = {name: arrays[name] for name in arrays.files if name != "sampled"}
    np.savez(tmp_path / "log.npz", **columns)
    assert not InteractionLog.load(tmp_path / "log").sampled.any()
    del columns["value"], columns["user"]
    np.savez(tmp_path / "log.npz", **columns)
    with pytest.raises(DataError, match=r"log\.npz lacks user, value"):
        InteractionLog.load(tmp_path / "log")


@pytest.mark.parametrize("name", ["rows", "users", "items"])
@pytest.mark.parametrize("damage", ["absent", "cut", "another"])
def test_damaged_files_are_refused(tmp_path: Path, name: str, damage: str) -> None:
    log_of(["a", "b"], ["c", "d"], 30).save(tmp_path / "log")
    log_of(["b", "a"], ["d", "c"], 30, seed=1).save(tmp_path / "other")
    (path,) = (tmp_path / "log").glob(f"{name}-*")
    if damage == "absent":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        path.write_bytes(next((tmp_path / "other").glob(f"{name}-*")).read_bytes())
    with pytest.raises(DataError, match=r"the log .*log cannot be read: "):
        InteractionLog.load(tmp_path / "log")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"form": 2}', '{"form": 1}', '{"form": 1, "rows": [1]}'])
def test_a_manifest_that_is_none_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / MANIFEST).write_text(content)
    with pytest.raises(DataError, match=r"log.* cannot be read"):
        InteractionLog.load(tmp_path / "log")


def test_the_manifest_says_where_the_stream_was_read_to(tmp_path: Path) -> None:
    (log,) = grown([20])
    log.save(tmp_path / "log")
    manifest = read_json(tmp_path / "log" / MANIFEST)
    assert (manifest["form"], manifest["stream_mark"]) == (1, "20-0")
    assert [end for end, _ in manifest["rows"]] == [20]
