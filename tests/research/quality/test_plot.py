"""Figures: the same bytes each time, whatever the machine is set to, and only those that there is something for."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offline.data.catalogue import DataError
from research.quality.evaluation import Evaluation
from research.quality.plot import draw, drawable, spaced
from tests.conftest import ROOT
from tests.research.quality.fakes import World


def texts(path: Path) -> set[str]:
    return {text.strip() for text in ElementTree.parse(path).getroot().itertext()}


def test_figures_are_equal_to_the_byte(everything: Evaluation, tmp_path: Path) -> None:
    first = draw(everything, tmp_path / "one")
    assert [path.name for path in first] == ["quality-auc-ms.svg", "quality-reliability.svg", "quality-share.svg"]
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "savefig.facecolor": "red"}):
        second = draw(everything, tmp_path / "two")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_another_process_draws_the_same(small: World, tmp_path: Path) -> None:
    """Ids of SVG elements are random unless they are salted."""
    code = f"""
from pathlib import Path
from research.quality.plot import draw
from tests.research.quality.fakes import world
folder = Path({str(tmp_path)!r})
small = world(folder / "world")
draw(small.evaluate(small.everything(), folder, split="validation", resamples=5), folder / "there")
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    here = draw(small.evaluate(small.everything(), tmp_path, split="validation", resamples=5), tmp_path / "here")
    assert [(tmp_path / "there" / path.name).read_bytes() for path in here] == [path.read_bytes() for path in here]


def test_what_they_show(everything: Evaluation, tmp_path: Path) -> None:
    speed, reliable, share = draw(everything, tmp_path)
    assert texts(speed) >= {str(row.candidate) for row in everything.rows} | {"goal", "AUC (test)"}
    chosen, peer = everything.row(everything.chosen), everything.row(everything.best_peer)
    assert chosen
    assert peer
    assert texts(reliable) >= {f"{row.candidate} (ECE {row.ece.middle:.4f})" for row in (chosen, peer)}
    assert texts(share) >= {"ours", "ours without knowledge", "1 %", "10 %", "100 %"}
    for path in (speed, reliable, share):
        content = path.read_text()
        assert len(content) < 40_000
        assert "dc:date" not in content
        assert "fill: #ffffff" in content  # the ground, on dark pages too


def test_only_what_there_is_something_for(small: World, tmp_path: Path) -> None:
    untimed = small.evaluate([small.trained("ours", family="ours", ms_per_500=())], tmp_path)
    assert drawable(untimed) == ("reliability",)
    assert [path.name for path in draw(untimed, tmp_path, "books")] == ["books-reliability.svg"]
    nobody = small.evaluate([small.trained("popularity", family="reference", ms_per_500=())], tmp_path)
    assert draw(nobody, tmp_path / "nothing") == ()


def test_matplotlib_is_loaded_to_draw_only(
    everything: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import sys, research.quality.plot, research.quality.report; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DataError, match=r"pip install -e '\.\[offline\]'"):
        draw(everything, tmp_path)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=20), st.floats(0.001, 0.2))
def test_labels_stay_apart(heights: list[float], gap: float) -> None:
    places = np.array(spaced(sorted(heights), gap))
    assert (np.diff(places) >= gap - 1e-9).all()
    if gap * (len(heights) - 1) <= 1:
        assert places.max(initial=0.0) <= 1 + 1e-9


def test_labels_with_room_stay_where_they_are() -> None:
    assert spaced([0.1, 0.5, 0.9], 0.1) == [0.1, 0.5, 0.9]
    assert spaced([0.5, 0.5], 0.1) == pytest.approx([0.5, 0.6])
    assert spaced([1.0, 1.0], 0.1) == pytest.approx([0.9, 1.0])
    assert spaced([], 0.1) == []
