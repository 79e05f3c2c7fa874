"""The comparison of a new model with the live one and with popularity, by models that are run; and what a refusal
leaves as it is."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest

from models.contract.artifact import RefusedModel
from models.contract.events import Interaction
from models.contract.schema import FeatureSchema
from offline.data.config import LabelsConfig
from offline.publish import release
from offline.publish.comparison import Comparison, is_worse
from offline.publish.connection import Store
from offline.publish.gate import GateError
from offline.publish.knowledge import times
from offline.publish.producer import served
from offline.training.bootstrap import Difference
from offline.training.run import train
from tests.offline.graphs import broken, coarsely_inverted, constant, inverted
from tests.offline.publish.conftest import Release, bytes_written, content_of, knowledge_in, read
from tests.synthetic import SCHEMA, job_config, knowledge_of, synthetic


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Trained until it knows whose genre is whose."""
    folder = tmp_path_factory.mktemp("good")
    data = replace(synthetic(folder), config=job_config(folder, epochs=6, batch_size=64))
    report = train(data.config, data.catalogue, data.log, data.knowledge, folder)
    assert report.metrics["validation_auc"] > 0.7
    return Release(data, report, folder)


def refused(store: Store) -> RefusedModel:
    model = release.refused_model(store)
    assert model is not None
    return model


def grown(by: Release) -> Release:
    """The same with a new item, and an event of one of its users."""
    event = Interaction(user_id="u1", item_id="new", value=5, time_ms=10**10)
    log, _ = by.data.log.extended([event], "9-0")
    return by.with_data(log=log, knowledge=knowledge_of(by.data.catalogue, log))


@pytest.mark.parametrize(
    ("middle", "low", "high", "worse"),
    [
        (0.02, 0.01, 0.03, False),
        (-0.005, -0.009, -0.001, False),  # shown, but allowed
        (-0.03, -0.07, 0.01, False),  # more than is allowed, but not shown
        (-0.03, -0.05, -0.005, True),  # shown, and the best estimate is more than is allowed
        (-0.03, -0.04, -0.02, True),
        (float("nan"), float("nan"), float("nan"), False),
    ],
)
def test_worse_is_what_is_shown_to_be_and_by_more_than_is_allowed(
    middle: float, low: float, high: float, worse: bool
) -> None:
    assert is_worse(Difference(middle, low, high), 0.01) == worse


def test_an_equal_model_goes_live_with_a_difference_of_nothing(store: Store, good: Release) -> None:
    first = good.publish(store)
    assert first.switched
    assert [note.split(" on ")[1] for note in first.notes] == ["162 validation samples of 57 users"]
    equal = good.next("equal").publish(store)
    assert (equal.switched, equal.refused) == (True, None)
    assert equal.notes[0].startswith("AUC +0.0000 [+0.0000, +0.0000] against the live model on 162 validation samples")
    assert equal.notes[1].startswith("AUC +")
    assert " against popularity (share of likes) on " in equal.notes[1]


def test_a_better_model_goes_live(store: Store, good: Release) -> None:
    good.scoring("inverted", inverted).publish(store)
    published = good.publish(store)
    assert (published.switched, published.refused) == (True, None)
    assert published.notes[0].startswith("AUC +")


def test_a_worse_model_holds_back_itself_and_nothing_else(store: Store, good: Release) -> None:
    good.publish(store)
    worse = grown(good.scoring("worse", constant))
    published = worse.publish(store)
    assert (published.release, published.live_before, published.switched) == (worse.id, good.id, False)
    assert published.refused == refused(store)
    assert (refused(store).release, refused(store).live) == (worse.id, good.id)
    (reason,) = refused(store).reasons
    assert reason.startswith("AUC -")
    assert reason.endswith(" against the live model on 162 validation samples of 57 users, and max_auc_drop is 0.01")
    assert release.live_release(store) == good.id
    assert release.releases(store) == [good.id]
    assert store.redis.get(store.keys.release_manifest(worse.id)) is None
    assert release.read_manifest(store, good.id).items == 41
    assert published.records["item features"].written == 1
    assert published.records["user histories"].written == 1
    assert store.redis.get(store.keys.release_revision(good.id)) is not None
    assert "`publish --accept`" in release.refusal_line(refused(store))


def test_a_refusal_stands_and_is_not_measured_again(
    store: Store, good: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    good.publish(store)
    worse = good.scoring("worse", constant)
    worse.publish(store)
    before, first = content_of(store), refused(store)
    with monkeypatch.context() as patch:
        patch.setattr("offline.publish.comparison.compare", lambda *_: pytest.fail("measured again"))
        again = worse.publish(store)
    assert (again.switched, again.refused, bytes_written(again)) == (False, first, 0)
    assert content_of(store) == before


def test_another_bound_is_another_question(store: Store, good: Release) -> None:
    good.publish(store)
    worse = good.scoring("worse", constant)
    assert not worse.publish(store).switched
    assert worse.with_gate(max_auc_drop=0.9).publish(store).switched
    assert release.refused_model(store) is None


def test_another_live_release_is_another_question(store: Store, good: Release) -> None:
    first = good.scoring("first", constant)
    first.publish(store)
    good.publish(store)
    same_as_first = good.scoring("second", constant)
    assert not same_as_first.publish(store).switched
    assert release.rollback(store) == (good.id, first.id)
    assert same_as_first.publish(store).switched


def test_the_last_refused_model_is_accepted_once(store: Store, good: Release) -> None:
    good.publish(store)
    worse, other = good.scoring("worse", constant), good.scoring("other", inverted)
    with pytest.raises(GateError, match="no model is refused"):
        worse.publish(store, accept=True)
    worse.publish(store)
    with pytest.raises(GateError, match=f"{worse.id} was refused, but {other.id} was trained since"):
        other.publish(store, accept=True)
    accepted = worse.publish(store, accept=True)
    assert (accepted.switched, accepted.refused, release.live_release(store)) == (True, None, worse.id)
    assert release.refused_model(store) is None
    with pytest.raises(GateError, match="no model is refused"):
        worse.publish(store, accept=True)
    assert not worse.publish(store).switched
    assert not other.publish(store).switched, "what was accepted is one model, and no rule"


def test_a_better_model_ends_the_refusal_of_an_earlier_one(store: Store, good: Release) -> None:
    good.publish(store)
    good.scoring("worse", constant).publish(store)
    assert good.next("later").publish(store).switched
    assert release.refused_model(store) is None


def test_a_release_that_was_live_returns_without_a_comparison(store: Store, good: Release) -> None:
    """Somebody asks for it by name, and has seen it at work."""
    worse = good.scoring("worse", constant)
    worse.publish(store)
    good.publish(store)
    release.rollback(store)
    release.rollback(store, good.id)
    assert release.withdrawn(store) == [worse.id]
    assert not worse.publish(store).switched
    assert release.refused_model(store) is None, "it stays off because it was rolled back"
    assert worse.publish(store, return_to=True).switched


def test_a_first_model_that_is_worse_than_popularity_goes_live_with_a_warning(store: Store, good: Release) -> None:
    worse = good.scoring("inverted", inverted)
    published = worse.publish(store)
    assert (published.switched, published.refused) == (True, None)
    assert published.notes[-1].startswith("warning: the model is worse than popularity")


def test_a_model_that_is_worse_than_popularity_is_refused(store: Store, good: Release) -> None:
    """The live one, as good as popularity, reads another schema and tells nothing of the new one."""
    first = good.reading("text")
    first.publish(store)
    published = good.scoring("inverted", inverted).publish(store)
    assert (
        published.notes[0]
        == "not compared with the live model: one of them reads item/marc, user/liber, user/marc, the other does not"
    )
    assert not published.switched
    (reason,) = refused(store).reasons
    assert " against popularity (share of likes) on 162 validation samples" in reason
    assert good.publish(store).switched, "the next one is better"


def test_the_better_of_two_that_are_worse_than_popularity_goes_live(store: Store, good: Release) -> None:
    """A gate that kept the worse one live would keep it for good."""
    good.scoring("worst", inverted).publish(store)
    published = good.scoring("bad", coarsely_inverted).publish(store)
    assert (published.switched, published.refused) == (True, None)
    assert published.notes[-1].startswith("warning: the model is worse than popularity (share of likes), and takes the")
    assert not good.scoring("worst again", inverted).publish(store).switched


def test_implicit_labels_with_negatives_drawn_by_popularity_are_compared_with_chance(
    store: Store, good: Release
) -> None:
    data = good.data.config.data.model_copy(update={"labels": LabelsConfig(kind="implicit")})
    implicit = good.with_data(config=good.data.config.model_copy(update={"data": data}))
    published = implicit.publish(store)
    assert published.switched
    assert " against chance (popularity itself is below it, " in published.notes[0]


def test_another_space_is_not_compared(store: Store, good: Release) -> None:
    good.publish(store)
    published = good.respaced("marc").publish(store)
    assert published.switched
    assert published.notes[0] == (
        "not compared with the live model: it reads other spaces of knowledge (item/marc, user/marc)"
    )


@pytest.mark.parametrize("damage", [b"", b"half of it", None])
def test_a_live_model_that_cannot_be_read_holds_nobody_back(
    store: Store, good: Release, tmp_path: Path, damage: bytes | None
) -> None:
    good.publish(store)
    good = replace(good, models=copytree(good.models, tmp_path / "models"))
    worse = good.scoring("worse", constant)
    file = store.artifacts / good.report.artifact
    file.unlink() if damage is None else file.write_bytes(damage)
    assert not worse.publish(store).switched, "the work folder has it: written again, it is compared"
    for place in (file, good.models / file.name):
        place.unlink() if damage is None else place.write_bytes(damage)
    published = worse.with_gate(max_auc_drop=0.02).publish(store)  # another question than the one that was answered
    assert published.switched
    assert published.notes[0].startswith(f"not compared with the live model: its file {file.name} is damaged or gone")


def test_a_live_release_that_cannot_be_read_holds_nobody_back(store: Store, good: Release) -> None:
    good.publish(store)
    store.redis.delete(store.keys.release_manifest(good.id))
    assert good.scoring("worse", constant).publish(store).switched


def test_a_live_model_that_saw_these_samples_is_not_compared(store: Store, good: Release) -> None:
    """It was trained on a longer part of the log, and would win by memory."""
    good.publish(store)
    samples = good.data.config.samples.model_copy(update={"split": (0.6, 0.2, 0.2)})
    config = good.data.config.model_copy(update={"samples": samples})
    earlier = train(config, good.data.catalogue, good.data.log, good.data.knowledge, good.models)
    published = replace(good, report=earlier).with_data(config=config).publish(store)
    assert published.switched
    assert published.notes[0] == "not compared with the live model: its training reaches into these samples"


def test_samples_that_are_no_longer_those_of_the_training_are_not_compared(store: Store, good: Release) -> None:
    good.publish(store)
    samples = good.data.config.samples.model_copy(update={"min_history": 4})
    config = good.data.config.model_copy(update={"samples": samples})
    published = good.scoring("worse", constant).with_data(config=config).publish(store)
    assert published.switched
    (note,) = published.notes
    assert note.startswith("the new model is compared with nothing: model worse.onnx was trained on other samples")


def test_a_new_schema_is_compared_with_popularity_alone(store: Store, good: Release) -> None:
    """The live model's manifest is of a schema with another name; its records are."""
    good.publish(store)
    renamed = FeatureSchema.model_validate({**SCHEMA.model_dump(), "name": "renamed"})
    config = good.data.config.model_copy(update={"feature_schema": renamed})
    report = train(config, good.data.catalogue, good.data.log, good.data.knowledge, good.models)
    published = replace(good, report=report).with_data(config=config).publish(store)
    assert published.switched
    assert published.notes[0] == "not compared with the live model: it reads another feature schema"


def test_a_model_that_cannot_be_run_is_no_release(store: Store, good: Release) -> None:
    with pytest.raises(GateError, match=r"the new model is refused: broken\.onnx cannot be run"):
        good.scoring("broken", broken).publish(store)
    assert release.live_release(store) is None


def test_items_that_the_live_model_never_saw_have_no_embedding_in_it(store: Store, good: Release) -> None:
    """With the rows of the new model it would read outside of its own embedding."""
    good.publish(store)
    events = [
        Interaction(
            user_id=f"u{number % 60}",
            item_id="late" if number % 3 == 0 else f"i{number % 40}",
            value=1.0 + number % 5,
            time_ms=10**10 + number,
        )
        for number in range(900)
    ]
    log, added = good.data.log.extended(events, "9-0")
    assert added == 900
    knowledge = knowledge_of(good.data.catalogue, log)
    report = train(good.data.config, good.data.catalogue, log, knowledge, good.models)
    later = replace(good, report=report).with_data(log=log, knowledge=knowledge).with_gate(min_item_coverage=0.9)
    assert (good.artifact.item_rows, later.artifact.item_rows) == (41, 42)
    published = later.publish(store)
    assert published.notes[0].startswith("AUC ")
    assert " against the live model on " in published.notes[0]


@pytest.mark.parametrize("why", ["refused", "rolled back"])
def test_knowledge_that_only_the_release_that_stays_reads_lives_on(
    store: Store, good: Release, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    good.publish(store)
    before, spaces = knowledge_in(store, "marc"), served(store, "marc")
    knowledge = good.data.config.knowledge.model_copy(update={"ttl_days": 365})
    longer = good.data.config.model_copy(update={"knowledge": knowledge})
    other = good.respaced("marc")
    if why == "refused":
        monkeypatch.setattr("offline.publish.comparison.compare", lambda *_: Comparison(("worse",)))
    else:
        other.publish(store)
        release.rollback(store)
    published = other.with_data(config=longer).publish(store)
    assert (published.switched, published.live_before) == (False, good.id)
    assert [published.records[f"{key}:{space}"].written for key, space in spaces.items()] == [60, 40]
    assert knowledge_in(store, "marc") == before
    assert all(times(read(store, key))[1] > time.time() + 300 * 86_400 for key in before)
    assert store.redis.get(store.keys.release_revision(good.id)) is not None, "services are told of the items"
