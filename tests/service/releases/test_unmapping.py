"""A replaced release's files: given back piece by piece, and only once no request looks at them."""

from __future__ import annotations

import gc
import mmap
import sys
import threading
import traceback
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np
import pytest

from models.contract.items import Columns
from models.contract.snapshot import file_of, read_columns, write_columns
from service.releases import unmapping
from service.releases.unmapping import PIECE, give_back, unmap_gently

CELLS = 3 * PIECE // 8 + 5
SECONDS = 30.0


@pytest.fixture
def given_back(monkeypatch: pytest.MonkeyPatch) -> SimpleQueue[int]:
    """Lengths of the mappings that were given back, without the small ones that other tests may have left."""
    lengths: SimpleQueue[int] = SimpleQueue()

    def noted(mapping: mmap.mmap) -> None:
        give_back(mapping)
        if len(mapping) > PIECE:
            lengths.put(len(mapping))

    monkeypatch.setattr(unmapping, "give_back", noted)
    monkeypatch.setattr(unmapping, "PAUSE_SECONDS", 0.0)
    return lengths


def taken(given_back: SimpleQueue[int]) -> int:
    """The length of the next mapping that is given back; fails, with what the threads are doing, if none is."""
    try:
        return given_back.get(timeout=SECONDS)
    except Empty:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        stacks = [f"{names.get(at)}: {traceback.extract_stack(of)[-2:]}" for at, of in sys._current_frames().items()]
        pytest.fail(f"nothing was given back in {SECONDS:g} s; " + "; ".join(stacks))


def mapped(folder: Path) -> Columns:
    columns = {"index": np.arange(CELLS), "id_rows": np.zeros(CELLS, np.int64)}
    return read_columns(folder, write_columns(folder, columns))


def test_nothing_is_given_back_while_a_view_is_left(tmp_path: Path, given_back: SimpleQueue[int]) -> None:
    columns = mapped(tmp_path)
    unmap_gently(columns)
    columns["index"][7] = -1
    view = columns["index"][5:][2:4]
    del columns["id_rows"]
    taken(given_back)
    del columns
    gc.collect()
    with pytest.raises(Empty):
        given_back.get(timeout=0.05)
    assert view.tolist() == [-1, 8]
    del view
    gc.collect()
    assert taken(given_back) >= CELLS * 8


def test_columns_that_are_no_mappings_are_left_alone(given_back: SimpleQueue[int]) -> None:
    unmap_gently({"index": np.arange(3)})
    assert given_back.empty()


def test_all_pages_of_a_mapping_are_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unmapping, "PAUSE_SECONDS", 0.0)
    digests = write_columns(tmp_path, {"index": np.arange(CELLS)})
    column = np.load(tmp_path / file_of(digests["index"]), mmap_mode="c")
    column[:] = -1
    give_back(column.base)
    assert (column == np.arange(CELLS)).all()  # what was written is gone, and the file is as it was
