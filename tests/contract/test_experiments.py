"""Files of experiments that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.contract.experiments import DEFAULT, ExperimentsError, parse_experiments, read_experiments
from tests.contract.experiments import TWO_LAYERS, experiment

LAYER = '[[layers]]\nname = "ranking"\n'
SHADOWED = 'name = "full"\nweight = 70\n'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("weight = 30", "weigth = 30"), "weigth"),
        (("weight = 30", "weight = -1"), "weight"),
        (("weight = 30", "weight = nan"), "weight"),
        (("weight = 30", 'weight = "30"'), "weight"),
        (('name = "full"', 'name = "plain"'), "repeats an arm"),
        (('name = "head"', 'name = "ranking"'), "a layer is repeated"),
        (('name = "rerank"', 'name = "knowledge"'), "an experiment is repeated"),
        (('knowledge = "off"', 'knowledge = "maybe"'), "knowledge"),
        (('knowledge = "off"', "rerank_top_n = 5"), "more than one layer: ranking, head"),
        ((SHADOWED, SHADOWED + 'explore = { kind = "plackett-luce" }'), "explore or rerank_top_n is set by more than"),
        (('seed = "another"', 'seed = "knowledge"'), "'rerank' of layer 'head' has the seed of ranking"),
        (
            ('name = "never"\n', 'name = "never"\nweight = 0\n[holdout]\nshare = 0.1\nseed = "knowledge"\n#'),
            "of the holdout",
        ),
        (("[[layers]]", "[[layer]]"), "layer"),
        (("[[layers]]", "[[layers]"), "Expected"),
        ((SHADOWED, SHADOWED + 'shadow = "nobody"'), "shadows nobody, not another arm"),
        ((SHADOWED, SHADOWED + 'shadow = "full"'), "shadows full, not another arm"),
        ((SHADOWED, SHADOWED + 'interleave = ["plain", "nobody"]'), "interleaves nobody"),
        ((SHADOWED, SHADOWED + 'interleave = ["plain", "plain"]'), "an arm with itself"),
        ((SHADOWED, SHADOWED + 'explore = { kind = "greedy" }'), "explore"),
        ((SHADOWED, SHADOWED + 'explore = { kind = "epsilon", epsilon = 0.0 }'), "epsilon"),
        ((SHADOWED, SHADOWED + 'explore = { kind = "epsilon", epsilon = 0.1 }\nrelease = "../x"'), "release"),
        (
            ("rerank_top_n = 20", 'rerank_top_n = 20\nexplore = { kind = "plackett-luce" }'),
            "reranks what it then draws",
        ),
        (('seed = "another"', 'forced = { "u" = "nobody" }'), "forces units into nobody"),
        (('seed = "another"', "coverage = 1.5"), "coverage"),
        (('seed = "another"', "slots = [0.5, 0.5]"), "no units in slots"),
        (('seed = "another"', "min_bucket_version = 1"), "excludes its own bucket_version"),
        (('seed = "another"', "start = 2026-11-01T00:00:00"), "timezone"),
        (('seed = "another"', "start = 2026-11-01T00:00:00Z\nend = 2026-10-01T00:00:00Z"), "ends before it starts"),
    ],
)
def test_invalid_files_are_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "experiments.toml"
    text = TWO_LAYERS.replace(*change)
    assert text != TWO_LAYERS
    path.write_text(text)
    with pytest.raises(ExperimentsError, match=message):
        read_experiments(path)


def test_an_experiment_needs_weight() -> None:
    with pytest.raises(ExperimentsError, match="gives no arm any weight"):
        parse_experiments((LAYER + experiment(weights=(0.0, 0.0))).encode())


def test_experiments_of_a_layer_may_touch_and_not_overlap() -> None:
    first, touching, over = (
        experiment(name, f"slots = {slots}")
        for name, slots in (("e", [0.0, 0.5]), ("f", [0.5, 1.0]), ("g", [0.4, 0.6]))
    )
    assert len(parse_experiments((LAYER + first + touching).encode()).layers[0].experiments) == 2
    with pytest.raises(ExperimentsError, match="'e' and 'g' of layer 'ranking' share slots"):
        parse_experiments((LAYER + over + first).encode())


def test_what_draws_cannot_be_interleaved() -> None:
    arms = """
[[layers.experiments.arms]]
name = "a"
weight = 1
[[layers.experiments.arms]]
name = "b"
weight = 0
explore = { kind = "plackett-luce" }
[[layers.experiments.arms]]
name = "c"
weight = 0
interleave = ["a", "b"]
"""
    with pytest.raises(ExperimentsError, match="both interleaves and draws"):
        parse_experiments((LAYER + experiment(arms=arms)).encode())


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExperimentsError, match=r"none\.toml"):
        read_experiments(tmp_path / "none.toml")
    assert read_experiments(None) is DEFAULT


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(ExperimentsError, match="decode"):
        parse_experiments(b"\xff\xfe")
