"""Knowledge that producers made before, fitted to a log that has grown; and not to another log."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from offline.data.files import read_arrays, write_arrays
from offline.data.log import InteractionLog
from offline.knowledge.run import load_knowledge
from offline.knowledge.vectors import Lineage
from tests.offline.codes import user_codes
from tests.synthetic import SCHEMA, Synthetic, synthetic


@pytest.fixture
def saved(tmp_path: Path) -> Synthetic:
    """A data set whose knowledge was made and saved."""
    data = synthetic(tmp_path, users=12, items=8, events=12)
    for name, produced in data.knowledge.produced.items():
        replace(produced, lineage=Lineage.of(data.log)).save(tmp_path / name)
    return data


def longer(log: InteractionLog) -> InteractionLog:
    return replace(log, user_ids=(*log.user_ids, "u-new", "u-newer"), item_ids=(*log.item_ids, "i-new"))


def test_it_is_as_it_was_saved(saved: Synthetic, tmp_path: Path) -> None:
    knowledge = load_knowledge(tmp_path, SCHEMA, saved.log)
    assert list(knowledge.produced) == ["text", "liber", "marc"]
    for name, vectors in knowledge.users.items():
        np.testing.assert_array_equal(vectors.vectors, saved.knowledge.users[name].vectors)
    assert knowledge.fits(12, 8)


def test_who_came_later_is_unknown_and_the_others_are_as_before(saved: Synthetic, tmp_path: Path) -> None:
    knowledge = load_knowledge(tmp_path, SCHEMA, longer(saved.log))
    assert knowledge.fits(14, 9)
    for name, vectors in knowledge.users.items():
        before = saved.knowledge.users[name]
        assert len(vectors.of_user(12)) == len(vectors.of_user(13)) == 0
        assert user_codes(vectors, 13) == ()
        for user in range(12):
            np.testing.assert_array_equal(vectors.of_user(user), before.of_user(user))
            assert user_codes(vectors, user) == user_codes(before, user)
    for name, items in knowledge.items.items():
        assert items.known.tolist() == [*saved.knowledge.items[name].known.tolist(), False]
        np.testing.assert_array_equal(items.vectors[:, :8], saved.knowledge.items[name].vectors)
        assert not items.vectors[:, 8:].any()
        assert items.codes is None or items.codes.shape == (9, 2)


def test_another_log_is_not_taken_for_it(saved: Synthetic, tmp_path: Path) -> None:
    swapped = replace(saved.log, user_ids=(saved.log.user_ids[1], saved.log.user_ids[0], *saved.log.user_ids[2:]))
    assert load_knowledge(tmp_path, SCHEMA, swapped).produced == {}
    shorter = replace(saved.log, item_ids=saved.log.item_ids[:-1])
    assert load_knowledge(tmp_path, SCHEMA, shorter).produced == {}


def test_knowledge_of_another_shape_is_not_what_the_schema_reads(saved: Synthetic, tmp_path: Path) -> None:
    wider = [spec.model_copy(update={"dim": 9}) if spec.name == "liber" else spec for spec in SCHEMA.knowledge]
    schema = SCHEMA.model_copy(update={"knowledge": tuple(wider)})
    assert list(load_knowledge(tmp_path, schema, saved.log).produced) == ["text", "marc"]
    one_side = SCHEMA.model_copy(update={"knowledge": SCHEMA.knowledge[:3]})  # without "item/marc"
    assert list(load_knowledge(tmp_path, one_side, saved.log).produced) == ["text", "liber"]


def test_what_does_not_say_whose_numbers_it_uses_is_not_believed(saved: Synthetic, tmp_path: Path) -> None:
    saved.knowledge.produced["liber"].save(tmp_path / "liber")
    assert list(load_knowledge(tmp_path, SCHEMA, saved.log).produced) == ["text", "marc"]


def test_what_is_damaged_or_of_the_previous_form_is_not_there(saved: Synthetic, tmp_path: Path) -> None:
    path = tmp_path / "liber" / "vectors.npz"
    path.write_bytes(path.read_bytes()[:-100])
    path = tmp_path / "marc" / "vectors.npz"
    arrays = read_arrays(path)
    write_arrays(path, **{name: array for name, array in arrays.items() if name != "document"})
    (path.parent / "texts.json").write_text('{"spaces": [], "texts": {}}')
    (path.parent / "ids.json").write_text("[]")
    assert list(load_knowledge(tmp_path, SCHEMA, saved.log).produced) == ["text"]


def test_what_misses_texts_still_misses_them_in_a_log_that_grew(saved: Synthetic, tmp_path: Path) -> None:
    before = saved.knowledge.produced["liber"]
    replace(before, lineage=Lineage.of(saved.log), partial=True).save(tmp_path / "liber")
    by_name = load_knowledge(tmp_path, SCHEMA, longer(saved.log)).produced
    assert {name: produced.partial for name, produced in by_name.items()} == {
        "text": False,
        "liber": True,
        "marc": False,
    }
