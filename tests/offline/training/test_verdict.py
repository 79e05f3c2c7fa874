"""The verdict: one sentence for each case, worst first, and remedies by circumstances."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from offline.training.bootstrap import Difference
from offline.training.verdict import Circumstances, Rival, RivalKind, rivals, verdict

WORSE, BETTER = Difference(-0.02, -0.03, -0.01), Difference(0.02, 0.01, 0.03)
EQUAL, BEHIND = Difference(0.002, -0.01, 0.012), Difference(-0.002, -0.012, 0.01)
UNDEFINED = Difference(float("nan"), float("nan"), float("nan"))
ENOUGH = Circumstances(training_samples=100_000, unseen=0.01, history=20, read=50, running=True, auto=True)
CHOOSE = "choose anew (`python -m offline refresh --choose`)"


def rival(kind: RivalKind, auc: Difference, logloss: Difference = EQUAL) -> Rival:
    """The differences are those of the served model."""
    return Rival(f"the {kind}", kind, auc, logloss)


def said(*others: Rival, circumstances: Circumstances = ENOUGH) -> str:
    return verdict("DIN", others, circumstances)


def test_nothing_is_said_of_a_model_that_is_shown_better_than_all() -> None:
    assert said(rival("tree", BETTER), rival("plain", EQUAL), rival("network", EQUAL), rival("baseline", BETTER)) == ""


def test_a_baseline_that_is_better_comes_first() -> None:
    for worse in (rival("baseline", WORSE), rival("baseline", BETTER, logloss=BETTER)):
        text = said(rival("tree", WORSE), worse)
        assert text.startswith("DIN is worse than the baseline (served minus it: AUC ")
        assert "do not let it go live; check labels, times and ids (`python -m offline validate`), then " in text


def test_trees_that_are_better_are_to_be_served() -> None:
    text = said(rival("network", WORSE), rival("tree", WORSE), rival("baseline", BETTER))
    assert text == (
        "the tree beat DIN (served minus it: AUC -0.0200 [-0.0300, -0.0100], LogLoss +0.0020 [-0.0100, +0.0120]): "
        f'serve that (training.served = "tree"), or {CHOOSE}'
    )


def test_knowledge_that_harms_is_to_be_left_out() -> None:
    text = said(rival("plain", WORSE), rival("network", WORSE), rival("baseline", BETTER))
    assert text.startswith("DIN is better without its knowledge (")
    assert text.endswith("take what harms out of feature_schema.knowledge")


def test_another_network_that_is_better_is_to_be_chosen() -> None:
    far = replace(rival("network", Difference(-0.05, -0.06, -0.04)), model="the best")
    text = said(rival("network", WORSE), far, rival("baseline", BETTER))
    assert text.startswith("the best beat DIN (served minus it: AUC -0.0500")
    assert text.endswith(f"set training.served to it, or {CHOOSE}")


def test_a_baseline_that_is_not_beaten_is_said() -> None:
    for equal in (EQUAL, BEHIND):
        assert said(rival("baseline", equal)).startswith("DIN is not shown better than the baseline (")
    undefined = rival("baseline", UNDEFINED, logloss=WORSE)
    assert said(undefined) == "", "of one label, LogLoss decides"
    assert said(rival("baseline", UNDEFINED, logloss=EQUAL)).startswith("DIN is not shown better")


def test_trees_that_are_not_beaten_cost_less() -> None:
    text = said(rival("tree", EQUAL), rival("baseline", BETTER))
    assert text.startswith("DIN is not shown better than the tree (")
    assert "which costs less to train and to serve: serve that" in text


def test_a_higher_auc_by_chance_asks_for_nothing() -> None:
    text = said(rival("network", BEHIND), rival("baseline", BETTER))
    assert text.startswith("the network has a higher AUC than DIN, but that may be chance (")
    assert text.endswith("nothing has to be done")


@pytest.mark.parametrize(
    ("circumstances", "remedy"),
    [
        (ENOUGH, CHOOSE),
        (replace(ENOUGH, auto=False), 'let a training choose (training.served = "auto")'),
        (replace(ENOUGH, running=False), "add running features ([feature_schema.running])"),
        (replace(ENOUGH, unseen=0.31), "look at unseen items, 31% of the test samples"),
        (
            replace(ENOUGH, history=80),
            "read longer histories (training.choice.window or history_length is 50, the median is 80)",
        ),
        (
            replace(ENOUGH, history=80, auto=False),
            "read longer histories (history_length is 50, the median is 80)",
        ),
        (replace(ENOUGH, training_samples=1500), "wait for more data (1,500 training samples)"),
    ],
)
def test_remedies_follow_from_circumstances(circumstances: Circumstances, remedy: str) -> None:
    assert f": {remedy}" in said(rival("baseline", EQUAL), circumstances=circumstances)


def test_the_served_model_is_compared_with_all_others_on_the_same_users() -> None:
    generator = np.random.default_rng(0)
    user, label = np.repeat(np.arange(40), 10), generator.integers(0, 2, 400).astype(np.float32)
    good, poor = (np.clip(0.5 + (label - 0.5) * by, 0.01, 0.99).astype(np.float32) for by in (0.8, 0.0))
    scores = {"DIN": {1: good, 2: good}, "tree": {1: poor, 2: good}, "popularity": {0: poor}}
    tree, popularity = rivals(label, user, scores, {"tree": "tree", "popularity": "baseline"})
    assert (tree.model, tree.kind, popularity.kind) == ("tree", "tree", "baseline")
    assert tree.auc.middle == pytest.approx(0.25)
    assert popularity.auc.middle == pytest.approx(0.5)
    assert popularity.logloss.middle == pytest.approx(np.log(0.9 / 0.5) * -1, rel=1e-5)
    assert not tree.is_better
    assert popularity.is_worse
