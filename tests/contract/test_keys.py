"""Every Redis key, written out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.contract.keys import Keys, of_each

SPACE = "0123456789abcdef"


@pytest.mark.parametrize(
    ("identifier", "spelt"),
    [("7", "7"), ("a{b}%", "a%7Bb%7D%25"), ("zoë", "zoë"), ("a:b c", "a:b c"), ("%7B", "%257B")],
)
def test_keys_of_users_and_items(identifier: str, spelt: str) -> None:
    keys = Keys("p")
    assert keys.user_profile(identifier) == f"p:{{u:{spelt}}}:profile"
    assert keys.user_history(identifier) == f"p:{{u:{spelt}}}:history"
    assert keys.user_knowledge(identifier, SPACE) == f"p:{{u:{spelt}}}:k:0123456789abcdef"
    assert keys.unit_arms(identifier) == f"p:{{u:{spelt}}}:arms"
    assert keys.user_served(identifier) == f"p:{{u:{spelt}}}:served"
    assert keys.user_event_counts(identifier) == f"p:{{u:{spelt}}}:counts"
    assert keys.item_features(identifier, "r-1") == f"p:{{i:{spelt}}}:f:r-1"
    assert keys.item_knowledge(identifier, SPACE) == f"p:{{i:{spelt}}}:k:0123456789abcdef"


def test_keys_of_releases_and_streams() -> None:
    keys = Keys("p")
    assert keys.item_directory("r-1", 3) == "p:release:r-1:items:3"
    assert keys.release_manifest("r-1") == "p:release:r-1:manifest"
    assert keys.release_revision("r-1") == "p:release:r-1:revision"
    assert keys.live == "p:live"
    assert keys.releases == "p:releases"
    assert keys.pins == "p:pins"
    assert keys.withdrawn == "p:withdrawn"
    assert keys.refused_model == "p:refused"
    assert keys.rolled_back == "p:held"
    assert keys.installation == "p:installation"
    assert keys.generation == "p:stamp"
    assert keys.interactions == "p:interactions"
    assert keys.exposures == "p:exposures"


def _hash_tag(key: str) -> str:
    """The part of a key that Redis Cluster hashes: the text between the first { and the first } after it."""
    return key[key.index("{") + 1 : key.index("}", key.index("{"))]


@given(st.text(min_size=1), st.text(min_size=1))
def test_all_keys_of_one_user_share_a_hash_tag_that_no_other_user_has(user: str, neighbour: str) -> None:
    keys = Keys("p")
    tags = {
        _hash_tag(key) for key in (keys.user_profile(user), keys.user_history(user), keys.user_knowledge(user, SPACE))
    }
    assert len(tags) == 1
    if user != neighbour:
        assert _hash_tag(keys.user_profile(neighbour)) not in tags
        assert keys.user_profile(user) != keys.user_profile(neighbour)


@given(st.lists(st.text(st.characters(codec="utf-8") | st.sampled_from("%{}"))))
def test_the_keys_of_many_are_those_of_each(ids: list[str]) -> None:
    keys = Keys("p")
    for key in (keys.user_profile, lambda owner: keys.item_features(owner, "r}%{-1")):
        assert of_each(key, ids) == [key(owner) for owner in ids]
