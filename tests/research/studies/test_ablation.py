"""The ablation: which variants there are, that a stopped one goes on, and the table.

One test trains; the others put quick trainings in place (tests/research/quick.py).
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from offline.data.files import read_arrays
from offline.knowledge.vectors import Knowledge, Produced
from offline.training.bootstrap import Resamples
from offline.training.candidates import ModelSpec
from offline.training.fit import Fitted, fit
from offline.training.samples import split_samples
from research import trials
from research.studies import ablation
from research.studies.ablation import GROUP_IDS, Ablation, knowledge_of, run_ablation, variants
from tests.research.quick import trained_quickly
from tests.synthetic import SCHEMA, Synthetic, synthetic

VARIANTS = ("base", "plain text", "LIBER", "MARC", "LIBER + MARC", "all and plain text")
READS = {"base": set[str](), "plain text": {"text"}, "LIBER": {"liber"}, "MARC": {"marc"}}
READS |= {"LIBER + MARC": {"liber", "marc"}, "all and plain text": {"text", "liber", "marc"}}
SEEDS = 2


@pytest.fixture
def data(tmp_path: Path) -> Synthetic:
    """Test samples of users with 17 to 21 earlier interactions: some cold, some warm."""
    return synthetic(tmp_path, users=60, events=22)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "Resamples", partial(Resamples, count=100))


def run(data: Synthetic, seeds: int = SEEDS) -> Ablation:
    runner = trials.TrialRunner(data.config, data.catalogue, data.log, data.config.workdir / "ablation")
    return run_ablation(runner, data.knowledge, seeds)


def test_variants_are_the_producers_one_by_one_and_together(data: Synthetic) -> None:
    produced = dict(data.knowledge.produced)
    assert {name: set(reads) for name, reads in variants(Knowledge(produced)).items()} == READS
    assert tuple(variants(Knowledge(produced))) == VARIANTS
    three = variants(Knowledge({**produced, "autograph": produced["marc"]}))
    assert list(three) == ["base", "plain text", "LIBER", "AutoGraph", "MARC", "all three", "all and plain text"]
    assert three["all three"] == ("liber", "autograph", "marc")
    assert list(variants(Knowledge({"liber": produced["liber"]}))) == ["base", "LIBER"]
    assert list(variants(Knowledge({}))) == ["base"]
    grouped = variants(Knowledge({"liber": produced["liber"], "groups": produced["marc"]}))
    assert list(grouped) == ["base", "LIBER", "groups", GROUP_IDS, "LIBER + groups"]
    assert grouped[GROUP_IDS] == ("groups",)


def test_the_control_of_groups_keeps_who_is_together_and_nothing_else(data: Synthetic) -> None:
    marc = data.knowledge.produced["marc"]
    assert marc.items is not None
    assert marc.users is not None
    group = np.arange(marc.items.vectors.shape[1]) % 5
    items = replace(marc.items, vectors=marc.items.vectors[:1, group], from_row=marc.items.from_row[:1])
    users = replace(marc.users, vectors=marc.users.vectors[np.arange(len(marc.users.vectors)) % 3])
    knowledge = Knowledge({"groups": Produced(users, items)})
    assert knowledge_of("groups", ("groups",), knowledge, 1).produced["groups"].items is items
    control, other = (knowledge_of(GROUP_IDS, ("groups",), knowledge, seed).produced["groups"] for seed in (1, 2))
    assert control.items is not None
    assert control.users is not None
    assert other.items is not None
    known = items.known
    for before, after in (
        (items.vectors[0, known], control.items.vectors[0, known]),
        (users.vectors, control.users.vectors),
    ):
        assert (before != after).all(axis=1).all()
        together = (before[:, None] == before[None]).all(axis=-1)
        np.testing.assert_array_equal(together, (after[:, None] == after[None]).all(axis=-1))
    assert not control.items.vectors[:, ~known].any()
    assert (control.items.vectors[0, known] != other.items.vectors[0, known]).all()
    assert control.items.space == items.space
    again = knowledge_of(GROUP_IDS, ("groups",), knowledge, 1).items["groups"]
    np.testing.assert_array_equal(again.vectors, control.items.vectors)


def test_every_variant_is_trained_with_every_seed_on_its_own_knowledge(
    data: Synthetic, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = trained_quickly(monkeypatch)
    result = run(data)
    assert trainings.fitted == [(name, seed) for seed in (1, 2) for name in VARIANTS]
    assert {name: {spec.name for spec in schema.knowledge} for name, schema in trainings.schemas.items()} == READS
    assert tuple(row.variant for row in result.rows) == VARIANTS
    assert result.seeds == 2
    splits = split_samples(data.config.samples, data.log)
    assert result.samples == {name: len(rows) for name, rows in splits.rows.items()}


def test_a_second_run_trains_nothing_and_says_the_same(data: Synthetic, monkeypatch: pytest.MonkeyPatch) -> None:
    trained_quickly(monkeypatch)
    first = run(data)
    again = trained_quickly(monkeypatch, {"base": 9.0})  # were it trained, the numbers would be others
    assert run(data) == first
    assert again.fitted == []


def test_a_run_that_was_stopped_goes_on_where_it_was(data: Synthetic, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = trained_quickly(monkeypatch)
    stopped.stop_after = 5
    with pytest.raises(KeyboardInterrupt):
        run(data)
    rest = trained_quickly(monkeypatch)
    finished = run(data)
    assert stopped.fitted + rest.fitted == [(name, seed) for seed in (1, 2) for name in VARIANTS]
    undisturbed = replace(data, config=data.config.model_copy(update={"workdir": data.config.workdir / "other"}))
    trained_quickly(monkeypatch)
    assert run(undisturbed) == finished


def test_more_seeds_keep_what_there_is(data: Synthetic, monkeypatch: pytest.MonkeyPatch) -> None:
    trained_quickly(monkeypatch)
    run(data, seeds=1)
    more = trained_quickly(monkeypatch)
    run(data, seeds=2)
    assert {seed for _, seed in more.fitted} == {2}


def test_more_vectors_in_a_space_train_what_reads_it(data: Synthetic, monkeypatch: pytest.MonkeyPatch) -> None:
    """An absent text that arrived: the log and the space are what they were."""
    trained_quickly(monkeypatch)
    run(data, seeds=1)
    marc = data.knowledge.items["marc"]
    vectors = marc.vectors.copy()
    vectors[-1, 3] += 1.0
    produced = {
        **data.knowledge.produced,
        "marc": Produced(data.knowledge.users["marc"], replace(marc, vectors=vectors)),
    }
    again = trained_quickly(monkeypatch)
    run(replace(data, knowledge=Knowledge(produced)), seeds=1)
    assert again.names == {name for name, reads in READS.items() if "marc" in reads}


def test_numbers_of_a_row(data: Synthetic, monkeypatch: pytest.MonkeyPatch) -> None:
    trainings = trained_quickly(monkeypatch, {"LIBER": 2.0})
    result = run(data)
    rows = {row.variant: row for row in result.rows}
    test = split_samples(data.config.samples, data.log).rows["test"]
    label = data.log.value[test] > SCHEMA.liked_above
    position = data.log.by_user().position[test]
    assert result.slices == {"all": len(test), "cold": (position < 20).sum(), "warm": (position >= 20).sum()}
    for name in ("base", "LIBER"):
        scores = [trainings.scores[name, seed] for seed in (1, 2)]
        aucs = [roc_auc_score(label, score) for score in scores]
        assert rows[name].auc == pytest.approx(np.mean(aucs))
        assert rows[name].spread == pytest.approx(abs(aucs[0] - aucs[1]) / np.sqrt(2))
        assert rows[name].validation_auc == pytest.approx(0.65)
        for part, mask in (("cold", position < 20), ("warm", position >= 20)):
            of_part = np.mean([roc_auc_score(label[mask], score[mask]) for score in scores])
            assert rows[name].slices[part][0] == pytest.approx(of_part)
            to_base = rows[name].slices[part][0] - rows["base"].slices[part][0]
            assert rows[name].slices[part][1].middle == pytest.approx(to_base)
    against = rows["LIBER"].against
    assert set(against) == {"base", "plain text"}
    assert against["base"].middle == pytest.approx(rows["LIBER"].auc - rows["base"].auc)
    assert against["plain text"].middle == pytest.approx(rows["LIBER"].auc - rows["plain text"].auc)
    assert (set(rows["base"].against), set(rows["plain text"].against)) == ({"plain text"}, {"base"})


def test_a_gain_and_a_loss_are_shown_and_nothing_is_left_out(data: Synthetic, monkeypatch: pytest.MonkeyPatch) -> None:
    trained_quickly(monkeypatch, {"LIBER": 3.0, "MARC": 0.0})
    result = run(data)
    rows = {row.variant: row for row in result.rows}
    assert rows["LIBER"].against["base"].low > 0
    assert rows["MARC"].against["base"].high < 0
    lines = {line.split("|")[1].strip(): line for line in result.markdown().splitlines()[2:]}
    assert tuple(lines) == VARIANTS
    assert f"**{rows['LIBER'].against['base']}**" in lines["LIBER"]
    assert f"**{rows['MARC'].against['base']}**" in lines["MARC"]
    assert f"| {rows['plain text'].against['base']} |" in lines["plain text"]  # not bold


def test_without_cold_users_there_is_no_such_column(data: Synthetic, monkeypatch: pytest.MonkeyPatch) -> None:
    trained_quickly(monkeypatch)
    many = synthetic(data.config.workdir / "many", users=20, events=40)
    result = run(many, seeds=1)
    assert result.slices["cold"] == 0
    assert all(set(row.slices) == {"warm"} for row in result.rows)
    assert "cold" not in result.markdown()
    assert [row.spread for row in result.rows] == [0.0] * len(VARIANTS)  # one seed


def test_a_real_run(data: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains tiny models: base, plain text, LIBER, MARC and both."""
    calls: list[str] = []

    def counted(spec: ModelSpec, *rest: object, progress: bool) -> Fitted:
        calls.append(spec.label)
        return fit(spec, *rest, progress=progress)  # type: ignore[arg-type, misc]

    monkeypatch.setattr(trials, "fit", counted)
    result = run(data)
    assert len(calls) == SEEDS * len(VARIANTS)
    assert run(data) == result
    assert len(calls) == SEEDS * len(VARIANTS)
    lines = result.markdown().splitlines()
    assert len(lines) == 2 + len(VARIANTS)
    for line in lines[3:]:  # after base: an interval against base, of all users, the cold and the warm
        assert line.count("[") == (3 if "| plain text |" in line else 4)
        assert line.count("|") == lines[0].count("|")
    arrays = [read_arrays(path) for path in (data.config.workdir / "ablation").iterdir()]
    assert len(arrays) == SEEDS * len(VARIANTS)
    assert len({trial["test"].tobytes() for trial in arrays}) == len(arrays)  # no model is another
    result.save(tmp_path / "ablation.json")
    document = json.loads((tmp_path / "ablation.json").read_text())
    assert [row["variant"] for row in document["rows"]] == list(VARIANTS)
    assert document["rows"][2]["against"]["base"]["middle"] == result.rows[2].against["base"].middle
