"""What every implementation of the port ``UserFeatures`` must do. Inherit, and provide the two fixtures.

``features``  the implementation under test
``stored``    writes records of a user where the implementation reads them
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pytest

from models.contract.events import Interaction
from models.contract.knowledge import KnowledgeRecord, Space
from models.contract.profile import UserProfile
from service.ranking.deadline import Deadline
from service.ranking.degraded import FeatureReadError
from service.ranking.ports import UserFeatures

SPACE = Space(name="sequence", side="user", rows=4, dim=2, components={})
SINGLE = Space(name="single", side="user", rows=1, dim=3, components={})
SPACES = (SPACE, SINGLE)


class StoredUsers(Protocol):
    """Where the implementation under test reads from; raw bytes, so that a suite can store what is wrong."""

    def history(self, user_id: str, blob: bytes) -> None: ...

    def profile(self, user_id: str, blob: bytes) -> None: ...

    def knowledge(self, user_id: str, space: str, blob: bytes) -> None: ...

    def arms(self, unit: str, arms: dict[str, str]) -> None: ...


def events_of(user_id: str, count: int) -> bytes:
    """A packed history whose values are 0, 1, 2, ..."""
    return b"".join(
        Interaction(user_id=user_id, item_id=f"i{at}", value=float(at), time_ms=at).pack() for at in range(count)
    )


def knowledge_of(user_id: str, value: float, space: Space = SPACE, *, rows: int = 1, dim: int | None = None) -> bytes:
    """A packed record of the space, of its dimension unless ``dim`` says otherwise."""
    vectors = np.full((rows, space.dim if dim is None else dim), value, np.float32)
    return KnowledgeRecord(user_id, space.fingerprint, vectors, 0, 2**40).pack()


class UserFeaturesSuite:
    """The conformance tests."""

    async def test_nothing_stored_is_unknown_and_not_an_error(self, features: UserFeatures) -> None:
        user = await features.fetch("nobody", SPACES, 5, Deadline(10))
        assert not user.known
        assert user.features == {}
        assert len(user.events) == 0
        assert user.knowledge == {}
        assert user.refused == frozenset()

    @pytest.mark.parametrize("user_id", ["u", "{u}", "a:b", "é\x00%", "x" * 256])
    async def test_everything_stored_comes_back(
        self, features: UserFeatures, stored: StoredUsers, user_id: str
    ) -> None:
        stored.history(user_id, events_of(user_id, 3))
        stored.profile(user_id, UserProfile(owner=user_id, features={"age": 3, "name": None}).pack())
        stored.knowledge(user_id, SPACE.fingerprint, knowledge_of(user_id, 0.5))
        stored.knowledge(user_id, SINGLE.fingerprint, knowledge_of(user_id, 0.25, SINGLE))
        user = await features.fetch(user_id, SPACES, 5, Deadline(10))
        assert user.known
        assert user.features == {"age": 3, "name": None}
        assert user.events["value"].tolist() == [0.0, 1.0, 2.0]
        vectors = {name: record.vectors.tolist() for name, record in user.knowledge.items()}
        assert vectors == {SPACE.fingerprint: [[0.5, 0.5]], SINGLE.fingerprint: [[0.25, 0.25, 0.25]]}
        assert user.refused == frozenset()

    async def test_kept_arms_come_back_if_a_unit_is_named(self, features: UserFeatures, stored: StoredUsers) -> None:
        stored.arms("device", {"e__0": "plain", "f__2": "ü"})
        assert (await features.fetch("u", SPACES, 5, Deadline(10))).sticky_arms is None
        for spaces in (SPACES, ()):
            user = await features.fetch("u", spaces, 5, Deadline(10), "device")
            assert user.sticky_arms == {"e__0": "plain", "f__2": "ü"}
            assert not user.known, "a unit's arms say nothing of the user"
        assert (await features.fetch("u", (), 5, Deadline(10), "nobody")).sticky_arms == {}

    async def test_only_the_last_events_come_back(self, features: UserFeatures, stored: StoredUsers) -> None:
        stored.history("u", events_of("u", 50))
        user = await features.fetch("u", (), 4, Deadline(10))
        assert user.events["value"].tolist() == [46.0, 47.0, 48.0, 49.0]

    async def test_without_a_space_no_knowledge_is_consulted(self, features: UserFeatures, stored: StoredUsers) -> None:
        stored.knowledge("u", SPACE.fingerprint, b"damaged")
        user = await features.fetch("u", (), 4, Deadline(10))
        assert user.knowledge == {}
        assert user.refused == frozenset()

    @pytest.mark.parametrize("spaces", [SPACES, SPACES[::-1]], ids=["", "reversed"])
    @pytest.mark.parametrize(
        ("damaged", "blob"),
        [
            (SPACE, b"damaged"),
            (SPACE, knowledge_of("u", 9.0, SINGLE)),
            (SPACE, knowledge_of("u", 9.0, SPACE, dim=3)),
            (SPACE, knowledge_of("u", 9.0, SPACE, rows=0)),
            (SINGLE, knowledge_of("v", 9.0, SINGLE)),
            (SINGLE, knowledge_of("u", 9.0, SINGLE, dim=2)),
            (SINGLE, knowledge_of("u", 9.0, SINGLE, rows=0)),
            (SINGLE, knowledge_of("u", 9.0, SINGLE, rows=2)),
        ],
        ids=["damaged", "space", "wide", "empty", "owner", "narrow", "empty-single", "two-rows"],
    )
    async def test_what_is_refused_in_one_space_leaves_the_others(
        self, features: UserFeatures, stored: StoredUsers, spaces: Sequence[Space], damaged: Space, blob: bytes
    ) -> None:
        for space in spaces:
            stored.knowledge("u", space.fingerprint, blob if space == damaged else knowledge_of("u", 0.5, space))
        user = await features.fetch("u", spaces, 4, Deadline(10))
        (other,) = (space for space in SPACES if space != damaged)
        assert list(user.knowledge) == [other.fingerprint]
        assert user.knowledge[other.fingerprint].vectors.tolist() == [[0.5] * other.dim]
        assert user.refused == {"no_knowledge"}

    async def test_nothing_stored_in_one_space_refuses_nothing(
        self, features: UserFeatures, stored: StoredUsers
    ) -> None:
        stored.knowledge("u", SINGLE.fingerprint, knowledge_of("u", 0.5, SINGLE))
        user = await features.fetch("u", SPACES, 4, Deadline(10))
        assert user.known
        assert list(user.knowledge) == [SINGLE.fingerprint]
        assert user.refused == frozenset()

    async def test_records_of_another_owner_are_refused(self, features: UserFeatures, stored: StoredUsers) -> None:
        stored.history("u", events_of("v", 3))
        stored.profile("u", UserProfile(owner="v", features={"age": 3}).pack())
        stored.knowledge("u", SPACE.fingerprint, knowledge_of("v", 0.5))
        user = await features.fetch("u", SPACES, 5, Deadline(10))
        assert len(user.events) == 0
        assert user.features == {}
        assert user.knowledge == {}
        assert user.refused == {"no_features", "no_knowledge"}

    async def test_a_spent_deadline_is_a_failed_read(self, features: UserFeatures) -> None:
        with pytest.raises(FeatureReadError):
            await features.fetch("u", SPACES, 5, Deadline(0))

    async def test_many_users_at_once_each_get_their_own(self, features: UserFeatures, stored: StoredUsers) -> None:
        for at in range(40):
            for space in SPACES:
                stored.knowledge(f"u{at}", space.fingerprint, knowledge_of(f"u{at}", float(at), space))
        users = await asyncio.gather(*(features.fetch(f"u{at % 40}", SPACES, 5, Deadline(10)) for at in range(200)))
        for at, user in enumerate(users):
            assert list(user.knowledge) == [SPACE.fingerprint, SINGLE.fingerprint]
            for record in user.knowledge.values():
                assert record.owner == f"u{at % 40}"
                assert record.vectors[0, 0] == at % 40
