"""Files that are replaced whole: what arrays of text may be written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offline.data.files import read_arrays, write_arrays


@pytest.mark.parametrize("texts", [["ab", "abc"], ["ab", "a\0"], ["ab", ""]])
def test_texts_of_several_lengths_are_refused(tmp_path: Path, texts: list[str]) -> None:
    with pytest.raises(ValueError, match="ids: texts of one length only"):
        write_arrays(tmp_path / "a.npz", ids=np.array(texts), numbers=np.zeros(2))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("texts", [["ab", "cd"], ["\0a", "日本"], []])
def test_texts_of_one_length_read_back(tmp_path: Path, texts: list[str]) -> None:
    write_arrays(tmp_path / "a.npz", digests=np.array(texts, str), of_all=np.array("any text"))
    assert read_arrays(tmp_path / "a.npz")["digests"].tolist() == texts
