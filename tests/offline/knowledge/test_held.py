"""What producers made before, fitted to a log that has grown; and not to another log."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from offline.data.log import InteractionLog
from offline.knowledge.held import about_to_produce, grown, held
from tests.synthetic import SCHEMA, Synthetic, synthetic


@pytest.fixture
def saved(tmp_path: Path) -> Synthetic:
    """A data set whose knowledge was made and saved."""
    data = synthetic(tmp_path, users=12, items=8, events=12)
    for name, made in data.knowledge.produced.items():
        about_to_produce(tmp_path / name, data.log)
        made.save(tmp_path / name)
    return data


def longer(log: InteractionLog) -> InteractionLog:
    return replace(log, user_ids=(*log.user_ids, "u-new", "u-newer"), item_ids=(*log.item_ids, "i-new"))


def test_it_is_as_it_was_saved(saved: Synthetic, tmp_path: Path) -> None:
    found = held(tmp_path, SCHEMA, saved.log)
    assert list(found.produced) == ["text", "liber", "marc"]
    for name, made in found.users.items():
        np.testing.assert_array_equal(made.vectors, saved.knowledge.users[name].vectors)
    assert found.fits(12, 8)


def test_who_came_later_is_unknown_and_the_others_are_as_before(saved: Synthetic, tmp_path: Path) -> None:
    found = held(tmp_path, SCHEMA, longer(saved.log))
    assert found.fits(14, 9)
    for name, made in found.users.items():
        before = saved.knowledge.users[name]
        assert len(made.of_user(12)) == len(made.of_user(13)) == 0
        assert made.codes_of(13) == ()
        for user in range(12):
            np.testing.assert_array_equal(made.of_user(user), before.of_user(user))
            assert made.codes_of(user) == before.codes_of(user)
    for name, items in found.items.items():
        assert items.known.tolist() == [*saved.knowledge.items[name].known.tolist(), False]
        np.testing.assert_array_equal(items.vectors[:, :8], saved.knowledge.items[name].vectors)
        assert not items.vectors[:, 8:].any()
        assert items.codes is None or items.codes.shape == (9, 2)


def test_another_log_is_not_taken_for_it(saved: Synthetic, tmp_path: Path) -> None:
    swapped = replace(saved.log, user_ids=(saved.log.user_ids[1], saved.log.user_ids[0], *saved.log.user_ids[2:]))
    assert held(tmp_path, SCHEMA, swapped).produced == {}
    shorter = replace(saved.log, item_ids=saved.log.item_ids[:-1])
    assert held(tmp_path, SCHEMA, shorter).produced == {}


def test_knowledge_of_another_shape_is_not_what_the_schema_reads(saved: Synthetic, tmp_path: Path) -> None:
    wider = [spec.model_copy(update={"dim": 9}) if spec.name == "liber" else spec for spec in SCHEMA.knowledge]
    schema = SCHEMA.model_copy(update={"knowledge": tuple(wider)})
    assert list(held(tmp_path, schema, saved.log).produced) == ["text", "marc"]
    one_side = SCHEMA.model_copy(update={"knowledge": SCHEMA.knowledge[:3]})  # without "item/marc"
    assert list(held(tmp_path, one_side, saved.log).produced) == ["text", "liber"]


def test_a_kill_between_the_note_and_the_knowledge_loses_nothing(saved: Synthetic, tmp_path: Path) -> None:
    now = longer(saved.log)
    about_to_produce(tmp_path / "liber", now)
    assert "liber" in held(tmp_path, SCHEMA, now).produced
    made = grown(saved.knowledge.produced["liber"], 14, 9)
    made.save(tmp_path / "liber")
    assert "liber" in held(tmp_path, SCHEMA, now).produced


def test_without_a_note_nothing_is_believed(saved: Synthetic, tmp_path: Path) -> None:
    (tmp_path / "liber" / "ids.json").unlink()
    (tmp_path / "text" / "ids.json").write_text("{")
    assert list(held(tmp_path, SCHEMA, saved.log).produced) == ["marc"]
