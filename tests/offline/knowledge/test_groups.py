"""Groups: what is asked of them, who has which vector for how many questions, and what stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.contract.events import Interaction
from models.contract.leaving import HISTORY
from models.contract.schema import KnowledgeSpec
from offline.data.catalogue import Catalogue
from offline.data.files import read_arrays
from offline.data.log import InteractionLog
from offline.knowledge.config import GroupsConfig
from offline.knowledge.errors import NotFittedError, TooFewError
from offline.knowledge.groups import Groups, Likes, likely_prompts, produce, version_counts
from offline.knowledge.inputs import ProducerInputs
from offline.knowledge.needs import Supply, shape_fault
from offline.knowledge.shipped import read_shipped_files, write_shipped
from offline.knowledge.vectors import ItemVectors, Produced, UserVectors
from offline.llm.protocol import Prompt
from tests.offline.knowledge.fakes import EchoModel, inputs, vector_of
from tests.synthetic import SCHEMA, Synthetic, synthetic

FEW = GroupsConfig(items=4, users=3, members=5, least_users=4)
BOTH = ("item", "user")
ITEMS, USERS, EVENTS = 24, 40, 30


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return synthetic(tmp_path_factory.mktemp("synthetic"), users=USERS, items=ITEMS, events=EVENTS)


def read(
    data: Synthetic,
    folder: Path,
    model: EchoModel | None = None,
    *,
    log: InteractionLog | None = None,
    catalogue: Catalogue | None = None,
    sides: Sequence[Any] = BOTH,
    config: GroupsConfig = FEW,
) -> ProducerInputs:
    specs = tuple(KnowledgeSpec(name="groups", side=side, dim=2) for side in sides)
    schema = SCHEMA.model_copy(update={"knowledge": specs})
    knowledge = data.config.knowledge.model_copy(update={"groups": config})
    settings = data.config.model_copy(update={"feature_schema": schema, "knowledge": knowledge})
    rows = int(0.8 * len(data.log))
    return inputs(settings, catalogue or data.catalogue, log or data.log, folder, trained_rows=rows, model=model)


def both(produced: Produced) -> tuple[ItemVectors, UserVectors]:
    assert produced.items is not None
    assert produced.users is not None
    return produced.items, produced.users


def question(prompt: Prompt) -> str:
    return prompt.messages[-1][1]


def test_one_question_for_each_group_and_its_vector_for_all_of_it(data: Synthetic, tmp_path: Path) -> None:
    model = EchoModel()
    items, users = both(produce(read(data, tmp_path, model)))
    asked = model.asked["groups"]
    assert len(asked) == 7
    assert [question(prompt).split(":")[0] for prompt in asked] == [
        *["These films are of one kind"] * 4,
        *["Several people liked these films"] * 3,
    ]
    assert len(np.unique(items.published, axis=0)) == 4
    assert len(np.unique(users.vectors, axis=0)) <= 3
    assert items.known.all()
    assert (items.space.key, users.space.key) == ("item/groups", "user/groups")
    first = question(asked[0])
    names = first.partition(": ")[2].partition(".\n")[0].split("; ")
    assert 1 <= len(names) <= 5
    assert all(name.startswith("Film ") for name in names)
    assert first.partition("among them: ")[2].partition(".\n")[2] == (
        "In two sentences, describe a film of this kind: "
        "its themes and plot, its mood, and the audience that enjoys it."
    )
    assert asked[0].carries == frozenset({"items.title", "items.genres"})
    assert asked[-1].carries == frozenset({HISTORY, "items.title", "items.genres"})
    assert {prompt.owner for prompt in asked} == {""}


def test_an_item_has_the_vector_of_the_nearest_group(data: Synthetic, tmp_path: Path) -> None:
    read_now = read(data, tmp_path, sides=("item",))
    items = produce(read_now).items
    assert items is not None
    (path,) = tmp_path.glob("groups-item-*.npz")
    groups = Groups.load(path)
    texts = [f"{data.config.data.texts.item_text(data.catalogue.items[item])}." for item in data.log.item_ids]
    wide = np.array([vector_of(text) for text in texts], np.float32)
    centred = wide - wide.mean(axis=0)
    nearest = np.argmax((centred / np.linalg.norm(centred, axis=1)[:, None]) @ groups.centroids.T, axis=1)
    for group in range(4):
        assert len(np.unique(items.published[nearest == group], axis=0)) == 1
        assert set(groups.members[group]) <= {data.log.item_ids[at] for at in np.flatnonzero(nearest == group)}


def test_new_items_and_users_cost_no_question(data: Synthetic, tmp_path: Path) -> None:
    model = EchoModel()
    before, of_users = both(produce(read(data, tmp_path, model)))
    paid = len(model.paid)
    catalogue = Catalogue(data.catalogue.users, {**data.catalogue.items, "new": {"title": "Unheard of", "year": 2031}})
    likes = [Interaction(user_id="new", item_id="i3", value=5.0, time_ms=2_000_000_000)]
    likes += [Interaction(user_id="u0", item_id="new", value=1.0, time_ms=2_000_000_001)]
    log, added = data.log.extended(likes, "1")
    assert added == 2
    items, users = both(produce(read(data, tmp_path, model, log=log, catalogue=catalogue)))
    assert len(model.paid) == paid
    assert (items.space, users.space) == (before.space, of_users.space)
    np.testing.assert_array_equal(items.published[:ITEMS], before.published)
    assert items.known[ITEMS]
    assert items.published[ITEMS].tolist() in before.published.tolist()
    np.testing.assert_array_equal(users.vectors[: len(of_users.vectors)], of_users.vectors)
    assert users.of_user(USERS)[0].tolist() in of_users.vectors.tolist()


def test_versions_come_with_the_first_likes_and_know_nothing_later(data: Synthetic, tmp_path: Path) -> None:
    read_now = read(data, tmp_path)
    _, users = both(produce(read_now))
    log, liked = data.log, data.log.value > SCHEMA.liked_above
    for user in range(0, USERS, 7):
        mine = np.flatnonzero((log.user == user) & liked)
        since = users.since[users.start[user] : users.start[user + 1]].tolist()
        assert since == [mine[place - 1] for place in (1, 2, 4, 8, 16) if place <= len(mine)]
    counts = version_counts(read_now, np.ones(ITEMS, np.bool_))
    assert counts.tolist() == np.diff(users.start).tolist()
    until = read_now.trained_rows
    value = log.value.copy()
    value[until:] = 6 - value[until:]
    _, other = both(produce(read(data, tmp_path / "other", log=replace(log, value=value))))
    assert other.space == users.space, "groups are made of the training period"
    early, also = users.since < until, other.since < until
    np.testing.assert_array_equal(users.vectors[early], other.vectors[also])


def test_means_are_of_the_likes_so_far() -> None:
    likes = Likes(np.array([0, 1, 2, 1, 0, 0]), np.arange(6), np.array([0, 3, 3, 6]))
    assert likes.users.tolist() == [0, 2]
    assert likes.versions().tolist() == [0, 1, 3, 4]
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [4.0, 0.0]], np.float32)
    expected = [[1.0, 0.0], [0.5, 0.5], [5 / 3, 1 / 3], [0.0, 1.0], [2 / 3, 1 / 3]]
    assert likes.means(np.array([0, 1, 2, 3, 5]), vectors) == pytest.approx(np.array(expected))


def test_a_question_about_users_tells_nothing_of_fewer_than_said(data: Synthetic, tmp_path: Path) -> None:
    """Nor does anything name a user."""
    model = EchoModel()
    produce(read(data, tmp_path, model))
    (path,) = tmp_path.glob("groups-user-*.npz")
    log, until = data.log, int(0.8 * len(data.log))
    early = (log.value > SCHEMA.liked_above) & (np.arange(len(log)) < until)
    fans = [len(np.unique(log.user[early & (log.item == item)])) for item in range(ITEMS)]
    rare = {name for name, count in zip(log.item_ids, fans, strict=True) if count < FEW.least_users}
    for members in Groups.load(path).members:
        assert not rare & set(members)
    strict = FEW.model_copy(update={"least_users": 13, "users": 3})
    model = EchoModel()
    with suppress(TooFewError):  # a single text is too little to tell directions apart
        produce(read(data, tmp_path / "strict", model, config=strict))
    asked = [prompt for prompt in model.asked["groups"] if HISTORY in (prompt.carries or ())]
    assert 0 < len(asked) < 3, "a group with nothing that may be told is not asked about"
    assert b'"u1"' not in path.read_bytes()
    assert b"Film" not in path.read_bytes(), "it holds no text, so it may be shipped"


def test_a_bad_answer_sends_its_members_to_another_group(data: Synthetic, tmp_path: Path) -> None:
    model = EchoModel()
    produce(read(data, tmp_path / "all", model))
    first = model.asked["groups"][0]
    items, _ = both(produce(read(data, tmp_path, EchoModel(bad=lambda prompt: prompt == first))))
    assert items.known.all()
    assert len(np.unique(items.published, axis=0)) == 3


def test_absent_answers_are_waited_for_once(data: Synthetic, tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        produce(read(data, tmp_path, EchoModel(absent=lambda prompt: True)))
    items, users = both(produce(read(data, tmp_path)))
    later, of_users = both(produce(read(data, tmp_path, EchoModel(absent=lambda prompt: True))))
    assert (later.space, of_users.space) == (items.space, users.space)
    assert not later.known.any()
    assert not len(of_users.vectors)
    assert of_users.start.tolist() == [0] * (USERS + 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"items": 13}, "26 items with a text for 13 groups, there are 24: lower knowledge.groups.items"),
        ({"users": 11}, "44 users with a like in the training period for 11 groups, there are 40: lower"),
    ],
)
def test_too_few_members_are_told_with_the_remedy(
    data: Synthetic, tmp_path: Path, change: dict[str, int], words: str
) -> None:
    read_now = read(data, tmp_path, config=FEW.model_copy(update=change))
    with pytest.raises(TooFewError, match=words):
        produce(read_now)
    supply = Supply(read_now, read_now.trained_rows, np.ones(ITEMS, np.bool_))
    assert words in supply.unmet("groups")
    assert not Supply(read(data, tmp_path), read_now.trained_rows, np.ones(ITEMS, np.bool_)).unmet("groups")


def test_what_will_be_asked_is_known_before_and_after(data: Synthetic, tmp_path: Path) -> None:
    model, read_now = EchoModel(), read(data, tmp_path)
    before = likely_prompts(read_now, tmp_path, read_now.encoder)
    assert len(set(map(question, before))) == 7
    produce(read(data, tmp_path, model))
    assert likely_prompts(read_now, tmp_path, read_now.encoder) == model.asked["groups"]


def test_one_side_is_enough(data: Synthetic, tmp_path: Path) -> None:
    read_now = read(data, tmp_path, sides=("user",))
    assert shape_fault("groups", data.config.knowledge, read_now.schema) == ""
    assert produce(read_now).items is None
    assert [path.name.split("-")[1] for path in tmp_path.glob("groups-*")] == ["user"]


def test_other_settings_are_other_groups(data: Synthetic, tmp_path: Path) -> None:
    items, users = both(produce(read(data, tmp_path)))
    again, also = both(produce(read(data, tmp_path, config=FEW.model_copy(update={"users": 4, "dtype": "int8"}))))
    assert again.space.components == items.space.components
    assert also.space.components["groups"] != users.space.components["groups"]


def test_groups_are_shipped_without_being_made_again(data: Synthetic, tmp_path: Path) -> None:
    model = EchoModel()
    items, _ = both(produce(read(data, tmp_path / "first", model)))
    files = {path.name: read_arrays(path) for path in (tmp_path / "first").glob("groups-*")}
    write_shipped(tmp_path / "shipped.npz", {}, files)
    assert read_shipped_files(tmp_path / "shipped.npz").keys() == files.keys()
    shuffled = replace(data.log, value=data.log.value[::-1].copy())  # other groups of users would be made of it
    read_now = read(data, tmp_path / "second", model, log=shuffled)
    again, _ = both(produce(replace(read_now, shipped=tmp_path / "shipped.npz")))
    assert len(model.paid) == 7
    assert again.space == items.space
    produce(read(data, tmp_path / "third", model, log=shuffled))
    assert len(model.paid) > 7
