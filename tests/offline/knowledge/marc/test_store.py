"""The store runs each text once per model and depth, and gives back the same bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from models.contract.arrays import FloatArray
from offline.data.catalogue import DataError
from offline.knowledge.marc import store
from offline.knowledge.marc.store import StateStore
from tests.offline.knowledge.marc.fakes import CountingReader


def test_each_text_is_run_once_and_comes_back_the_same(tmp_path: Path) -> None:
    source = CountingReader()
    store = StateStore(tmp_path, source)
    first = store.states(["b", "a", "b"], (0.5, 1.0))
    assert source.asked == 2
    np.testing.assert_array_equal(first[0.5][0], first[0.5][2])
    again = StateStore(tmp_path, source).states(["c", "a"], (0.5, 1.0))
    assert source.asked == 3
    np.testing.assert_array_equal(again[1.0][1], first[1.0][1])
    assert again[0.5].dtype == np.float32


def test_another_depth_runs_the_model_but_keeps_what_was_stored(tmp_path: Path) -> None:
    source = CountingReader()
    store = StateStore(tmp_path, source)
    first = store.states(["a"], (0.5,))
    both = store.states(["a"], (0.5, 1.0))
    assert source.asked == 2
    np.testing.assert_array_equal(both[0.5], first[0.5])
    store.states(["a"], (1.0,))
    assert source.asked == 2


def test_a_killed_run_keeps_its_finished_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_CHUNK", 2)
    texts = ["a", "bb", "ccc", "dddd", "eeeee"]
    with pytest.raises(KeyboardInterrupt):
        StateStore(tmp_path, CountingReader(fail_after=2)).states(texts, (0.5,))
    rest = CountingReader()
    StateStore(tmp_path, rest).states(texts, (0.5,))
    assert rest.asked == 1


def test_chunks_are_whole_again_after_a_kill_whatever_was_finished_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_CHUNK", 2)
    texts = ["a", "bb", "ccc", "dddd", "eeeee", "ffffff", "ggggggg"]
    undisturbed = CountingReader()
    StateStore(tmp_path / "undisturbed", undisturbed).states(texts, (0.5,))
    killed, rest = CountingReader(fail_after=2, backwards=True), CountingReader()
    with pytest.raises(KeyboardInterrupt):
        StateStore(tmp_path / "killed", killed).states(texts, (0.5,))
    StateStore(tmp_path / "killed", rest).states(texts, (0.5,))
    assert [texts for texts, _ in killed.calls] == [["ggggggg"], ["eeeee", "ffffff"]]
    assert sorted(killed.calls + rest.calls) == undisturbed.calls


def test_the_order_in_which_chunks_are_finished_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_CHUNK", 2)
    texts = ["eeeee", "bb", "ccc", "a", "bb", "dddd"]
    forwards = StateStore(tmp_path / "forwards", CountingReader(noise=0)).states(texts, (0.5, 1.0))
    backwards = StateStore(tmp_path / "backwards", CountingReader(noise=0, backwards=True)).states(texts, (0.5, 1.0))
    for depth in (0.5, 1.0):
        np.testing.assert_array_equal(forwards[depth], backwards[depth])
    assert files(tmp_path / "forwards") == files(tmp_path / "backwards")
    assert len(files(tmp_path / "forwards")) == 6


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.npz"))}


def test_another_model_reads_nothing_of_the_first(tmp_path: Path) -> None:
    StateStore(tmp_path, CountingReader()).states(["a"], (0.5,))
    other = CountingReader()
    other.id = "counting/2"
    StateStore(tmp_path, other).states(["a"], (0.5,))
    assert other.asked == 1


def test_nothing_asked_is_nothing_run(tmp_path: Path) -> None:
    source = CountingReader()
    assert StateStore(tmp_path, source).states([], (0.5,))[0.5].shape[0] == 0
    assert source.calls == []


def test_states_too_large_for_the_store_are_refused(tmp_path: Path) -> None:
    class Loud(CountingReader):
        def read(self, texts: Sequence[str], depths: Sequence[float]) -> dict[float, FloatArray]:
            return {depth: np.full((len(texts), 8), 1e6, np.float32) for depth in depths}

    with pytest.raises(DataError, match="do not fit float16"):
        StateStore(tmp_path, Loud()).states(["a"], (0.5,))
    assert not list(tmp_path.rglob("*.npz"))
