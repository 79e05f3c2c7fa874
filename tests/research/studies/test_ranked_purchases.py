"""The study of ranked purchases: what is trained and scored, what is measured of whom, and the page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.contract.arrays import FloatArray
from models.contract.knowledge import Space
from models.contract.schema import FeatureSchema
from offline.config import JobConfig
from offline.data.catalogue import Catalogue, DataError
from offline.data.log import InteractionLog
from offline.jobs.ledger import ProducerSummary, RunRecord
from offline.knowledge.run import ProducerState
from offline.knowledge.vectors import ItemVectors, Knowledge, Produced
from offline.llm.account import Account
from offline.training.bootstrap import Resamples
from offline.training.lifelong import as_torch
from research.quality.drawn import COLDNESS, DRAWINGS, Drawing, DrawnLists
from research.studies import ranked_purchases as study
from research.studies.ablation import BASE, CONTROL, GROUP_IDS
from research.studies.purchase_tables import producer_costs, purchases_page
from research.studies.ranked_purchases import (
    POPULARITY,
    SHUFFLED,
    WITHOUT_FIELDS,
    PurchaseSettings,
    RankedPurchases,
    list_scores,
    purchase_variants,
    settled,
    shuffled,
)
from research.test_set_ledger import Ledger
from research.trials import TrialRunner
from tests.research.purchases import shop
from tests.synthetic import DIM, SCHEMA, job_config

SETTINGS = PurchaseSettings("test", seeds=1, negatives=9)


@dataclass(frozen=True, slots=True)
class Data:
    config: JobConfig
    catalogue: Catalogue
    log: InteractionLog
    knowledge: Knowledge


@pytest.fixture
def data(tmp_path: Path) -> Data:
    log, _ = shop()
    generator = np.random.default_rng(3)
    schema = {**SCHEMA.model_dump(), "user_fields": (), "value_min": 0.0, "value_max": 1.0, "value_center": 0.5}
    schema |= {"value_scale": 0.5, "liked_above": 0.5, "running": {}}
    config = job_config(tmp_path).model_copy(update={"feature_schema": FeatureSchema.model_validate(schema)})
    items = {item: {"genres": ["War"] if at % 2 else ["Drama"], "year": 1980} for at, item in enumerate(log.item_ids)}
    vectors, known = generator.normal(size=(len(items), DIM)).astype(np.float32), np.ones(len(items), np.bool_)
    known[4::10] = False
    vectors[~known] = 0.0
    spec = next(spec for spec in SCHEMA.knowledge if spec.name == "text")
    space = Space.model_validate({**spec.model_dump(), "components": {"made": "by hand"}})
    text = Produced(items=ItemVectors.of_texts(space, vectors, known))
    return Data(config, Catalogue({}, items), log, Knowledge({"text": text}))


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "Resamples", partial(Resamples, count=100))


def ranked(data: Data, settings: PurchaseSettings = SETTINGS, ledger: Ledger | None = None) -> RankedPurchases:
    folder = data.config.workdir / "ranked"
    return RankedPurchases(data.config, data.catalogue, data.log, data.knowledge, folder, settings, ledger)


def scored_by(
    monkeypatch: pytest.MonkeyPatch, skill: dict[str, float] | None = None, stop_after: int = 99
) -> list[str]:
    """From now on models are not trained, and score by the truth as far as ``skill`` of
    their variants says. Returns what is scored, which ends with an interruption after ``stop_after``."""
    seen: list[str] = []

    def scores(model: Any, encoder: Any, lists: dict[Drawing, DrawnLists]) -> dict[Drawing, FloatArray]:
        if len(seen) == stop_after:
            raise KeyboardInterrupt
        name = f"{model[0]} {model[1]}"
        seen.append(name)
        worth = (skill or {}).get(model[0], 1.0)
        generator = np.random.default_rng([len(model[0]), model[1]])
        return {
            drawn: (worth * (np.arange(of.items.shape[1]) == 0) + generator.normal(size=of.items.shape)).astype("f4")
            for drawn, of in lists.items()
        }

    def fitted(runner: Any, spec: Any, encoder: Any) -> Any:
        return fitted_as(spec.label, spec.seed), 1.0

    monkeypatch.setattr(study, "list_scores", scores)
    monkeypatch.setattr(TrialRunner, "fitted", fitted)
    return seen


def fitted_as(name: str, seed: int) -> Any:
    """What stands for a fitted model: its variant and its seed."""
    return type("Fitted", (), {"model": (name, seed)})


def test_variants_are_those_that_there_is_knowledge_for(data: Data) -> None:
    variants = purchase_variants(data.knowledge)
    assert [variant.name for variant in variants] == [BASE, CONTROL, SHUFFLED, WITHOUT_FIELDS]
    assert [variant.producers for variant in variants] == [(), ("text",), ("text",), ()]
    more = Knowledge({**data.knowledge.produced, "marc": data.knowledge.produced["text"]})
    assert [variant.name for variant in purchase_variants(more)][4:] == ["MARC"]
    grouped = Knowledge({**data.knowledge.produced, "groups": data.knowledge.produced["text"]})
    assert [variant.name for variant in purchase_variants(grouped)][4:] == ["groups", GROUP_IDS]
    assert [variant.name for variant in purchase_variants(Knowledge({}))] == [BASE, WITHOUT_FIELDS]
    assert [variant.name for variant in purchase_variants(data.knowledge, ["base"])] == [BASE]
    assert WITHOUT_FIELDS not in [variant.name for variant in purchase_variants(data.knowledge, fields=False)]
    with pytest.raises(DataError, match="LIBER; there are base, plain text"):
        purchase_variants(data.knowledge, ["base", "LIBER"])


def test_the_control_deals_each_vector_to_another_item(data: Data) -> None:
    own, other = data.knowledge.items["text"], shuffled(data.knowledge, 1).items["text"]
    known = own.known
    np.testing.assert_array_equal(other.vectors[:, ~known], own.vectors[:, ~known])
    assert (other.vectors[0, known] != own.vectors[0, known]).any(axis=1).mean() > 0.8
    order = [np.lexsort(vectors[0, known].T) for vectors in (own.vectors, other.vectors)]
    np.testing.assert_array_equal(own.vectors[0, known][order[0]], other.vectors[0, known][order[1]])
    np.testing.assert_array_equal(other.vectors, shuffled(data.knowledge, 1).items["text"].vectors)
    assert (shuffled(data.knowledge, 2).items["text"].vectors != other.vectors).any()


def test_a_variant_reads_what_it_says(data: Data) -> None:
    of = ranked(data)
    base, text, control, bare = (of.spec(variant, 1) for variant in purchase_variants(data.knowledge))
    assert [len(spec.schema.item_fields) for spec in (base, text, control, bare)] == [2, 2, 2, 0]
    assert [{known.name for known in spec.schema.knowledge} for spec in (base, text, control, bare)] == [
        set(), {"text"}, {"text"}, set(),
    ]  # fmt: skip
    assert (text.knowledge.items["text"].vectors != control.knowledge.items["text"].vectors).any()
    assert len({of.runner.circumstances(spec) for spec in (base, text, control, bare)}) == 4


def test_auto_is_whole_histories(data: Data) -> None:
    assert settled(data.config) is data.config
    training = data.config.training.model_copy(update={"served": "auto"})
    assert settled(data.config.model_copy(update={"training": training})).training.served == "lifelong"


def test_slices_of_a_log_by_hand(data: Data) -> None:
    """Each purchase lies in the class that counting its item's training events by hand gives."""
    of = ranked(data)
    masks = of.slice_masks()
    assert masks["all"].all()
    assert len(masks["all"]) == 120
    trained = data.log.observed[data.log.observed < of.runner.splits.trained_rows]
    for at, row in enumerate(of.rows.tolist()):
        count = int((data.log.item[trained] == data.log.item[row]).sum())
        expected = [count == 0, 0 < count < 10, count >= 10]
        assert [bool(masks[f"items with {name}"][at]) for name in COLDNESS] == expected
        earlier = data.log.observed[data.log.observed < row]
        few = int((data.log.user[earlier] == data.log.user[row]).sum()) < 5
        assert bool(masks["users with fewer than 5 earlier events"][at]) == few


def test_users_with_few_events_are_a_slice(data: Data) -> None:
    log = data.log
    user = np.where((log.user == 3) & (np.arange(len(log)) < log.observed[-40]), 4, log.user).astype(np.int32)
    masks = ranked(replace(data, log=replace(log, user=user))).slice_masks()
    few = masks["users with fewer than 5 earlier events"]
    assert 0 < few.sum() < 6


@pytest.mark.parametrize("served", ["din", "lifelong"])
def test_a_purchase_scores_as_its_sample(data: Data, served: str) -> None:
    training = data.config.training.model_copy(update={"served": served})
    of = ranked(replace(data, config=data.config.model_copy(update={"training": training})))
    spec = of.spec(purchase_variants(data.knowledge)[1], 1)
    encoder = of.runner.encoder(spec)
    fitted, seconds = of.runner.fitted(spec, encoder)
    assert seconds > 0
    scores = list_scores(fitted.model, encoder, of.lists)
    with torch.inference_mode():
        pairs = fitted.model.model(as_torch(encoder.tensors(of.rows))).numpy()
    for drawn in DRAWINGS:
        assert scores[drawn].shape == (120, 10)
        np.testing.assert_allclose(scores[drawn][:, 0], pairs, atol=1e-5)
    assert scores["uniform"].std() > 0
    again, _ = of.runner.fitted(spec, encoder)  # from the disk
    np.testing.assert_array_equal(list_scores(again.model, encoder, of.lists)["uniform"], scores["uniform"])


def test_the_future_is_never_seen(data: Data) -> None:
    """Scores of the validation part are those of a log whose test part is another."""
    assert data.log.part_ends is not None
    end = data.log.part_ends[1]
    item = data.log.item.copy()
    item[end:] = np.roll(item[end:], 5)
    settings = replace(SETTINGS, part="validation")
    scores = []
    for number, log in enumerate([data.log, replace(data.log, item=item)]):
        config = data.config.model_copy(update={"workdir": data.config.workdir / str(number)})
        of = ranked(replace(data, config=config, log=log), settings)
        scores.append(of.scores(purchase_variants(data.knowledge)[1], 1))
    for drawn in DRAWINGS:
        np.testing.assert_array_equal(scores[0][drawn], scores[1][drawn])


def test_a_stopped_study_goes_on_where_it_was(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SETTINGS, seeds=2)
    first = scored_by(monkeypatch, stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        ranked(data, settings).run()
    rest = scored_by(monkeypatch)
    slices = ranked(data, settings).run()
    names = [variant.name for variant in purchase_variants(data.knowledge)]
    assert first + rest == [f"{name} {seed}" for seed in (1, 2) for name in names]
    again = scored_by(monkeypatch, {BASE: 50.0})
    assert ranked(data, settings).run() == slices
    assert not again
    ranked(data, replace(settings, draw_seed=2)).run()
    assert len(again) == 8


def test_who_knows_the_truth_has_all_and_who_knows_nothing_half(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    scored_by(monkeypatch, {BASE: 0.0, CONTROL: 1000.0, SHUFFLED: 0.0})
    slices = ranked(data, replace(SETTINGS, negatives=99)).run()
    assert [of.drawn for of in slices] == sorted((of.drawn for of in slices), reverse=True)
    for of in slices:
        popularity, base, text, control, _ = of.rows
        assert popularity.variant == POPULARITY
        assert text.auc == text.pooled == text.ndcg == text.hits == 1.0
        assert of.purchases < 40 or abs(base.auc - 0.5) < 0.15
        assert text.against[BASE]["auc"].middle == pytest.approx(1.0 - base.auc)
        assert text.against[BASE]["auc"].low > 0.0
        assert set(text.against) == {BASE}
        assert control.against[CONTROL]["auc"].high < 0
    unseen = next(of for of in slices if of.name == f"items with {COLDNESS[0]}")
    assert unseen.rows[0].auc == 0.5  # popularity knows nothing of them
    whole = slices[0]
    assert whole.purchases == 120
    assert whole.users == 40


def test_uses_of_the_test_part_are_noted(data: Data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "looks.jsonl", "ranked-purchases")
    scored_by(monkeypatch)
    ranked(data, ledger=ledger).run()
    ranked(data, ledger=ledger).run()
    assert ledger.count("synthetic") == 4


def test_drawn_rows_are_some_of_all(data: Data) -> None:
    whole, some = ranked(data), ranked(data, replace(SETTINGS, rows=25))
    assert len(some.rows) == 25
    at = np.searchsorted(whole.rows, some.rows)
    np.testing.assert_array_equal(whole.rows[at], some.rows)
    for drawn in DRAWINGS:
        np.testing.assert_array_equal(whole.lists[drawn].items[at], some.lists[drawn].items)


def run(states: dict[str, ProducerState], llm: Account | None = None, **stages: float) -> RunRecord:
    producers = {name: ProducerSummary(state) for name, state in states.items()}
    seconds = {f"knowledge: {name}": taken for name, taken in stages.items()}
    return RunRecord(run="r", job="knowledge", producers=producers, llm=llm, stages=seconds)


def test_costs_are_those_of_runs_of_the_producer_alone() -> None:
    account = Account("model", paid=10, prompt_tokens=300, completion_tokens=40)
    runs = [
        run({"text": ProducerState.MADE}, text=90.0),
        run({"liber": ProducerState.PARTIAL, "text": ProducerState.CURRENT}, account, liber=7.0, text=1.0),
        run({"liber": ProducerState.MADE}, account, liber=5.0),
        run({"liber": ProducerState.MADE, "marc": ProducerState.MADE}, account, liber=5.0, marc=5.0),
    ]
    costs = producer_costs(runs)
    assert set(costs) == {"text", "liber"}
    assert (costs["text"].calls, costs["text"].tokens, costs["text"].seconds) == (0, 0, 90.0)
    assert (costs["liber"].calls, costs["liber"].tokens, costs["liber"].seconds) == (20, 680, 12.0)


def test_the_page_says_what_is_still_to_be_made(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    scored_by(monkeypatch, {CONTROL: 1000.0})
    slices = ranked(data).run()
    costs = producer_costs([run({"text": ProducerState.MADE}, text=90.0)])
    page = purchases_page(slices, SETTINGS, data.knowledge, costs)
    lines = page.splitlines()
    assert sum(line.startswith("| liber | not made yet |") for line in lines) == 2
    (text, *_) = [line for line in lines if line.startswith("| plain text |")]
    assert text.endswith("| 0 | 0 | 90 |")
    assert "**+" in text
    assert "120 purchases of 40 users of the test part, one seed" in page
    assert "drawn by popularity" in page
    assert sum(line.startswith(f"| items with {COLDNESS[0]} |") for line in lines) == 10
