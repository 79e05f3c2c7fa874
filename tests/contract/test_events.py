"""Interactions, live histories, exposures and profiles: their bytes, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from models.contract.events import EVENT_BYTES, EVENT_DTYPE, Interaction, item_hash, names_in, owner_tag, unpack_history
from models.contract.exposures import Exposure, history_digest
from models.contract.knowledge import RecordError
from models.contract.profile import UserProfile
from tests.contract.golden import EXPOSURE, INTERACTION, PROFILE, flips, truncations

PACKED = bytes.fromhex("4003b12af4040a49" "7b68e5cf8b010000" "c6493b13" "00009040")  # fmt: skip

INTERACTION_ENTRY = {
    "v": "1",
    "event": '{"user_id":"zoë","item_id":"film 1","type":"rating","value":4.5,"time_ms":1700000000123}',
}
CLICK_ENTRY = {
    "v": "1",
    "event": '{"user_id":"u","item_id":"i","type":"click","value":1.0,"time_ms":0,"request_id":"r-1"}',
}
EXPOSURE_ENTRY = {
    "v": "2",
    "exposure": '{"request_id":"r-1","user_id":"zoë","unit":"session 1","time_ms":5,"release":"a",'
    '"arms":[{"layer":"model","experiment":"new","arm":"control","how":"sticky"}],"knowledge":true,'
    '"degraded":["no_rerank"],"latency_ms":1.5,"candidates":3,"items":["a","b"],"scores":[0.75,0.25],'
    '"item_features":{"b":{"year":1999}},"history_events":1,"history_digest":"22f510c5592ba15e",'
    '"propensities":[0.5,1.0]}',
}
PROFILE_BYTES = '{"v":1,"owner":"zoë","features":{"age":31,"gender":"F","score":0.5,"none":null}}'.encode()


def test_hashes_and_tags() -> None:
    assert item_hash("film 1") == 5263024561270620992
    assert item_hash("") == 13020603013274838756
    assert owner_tag("zoë") == 322652614


def test_an_event_packs_to_golden_bytes() -> None:
    assert EVENT_BYTES == 24
    assert INTERACTION.pack().hex() == PACKED.hex()


def test_stream_entries_are_golden() -> None:
    assert INTERACTION.to_stream() == INTERACTION_ENTRY
    click = Interaction(user_id="u", item_id="i", type="click", value=1.0, time_ms=0, request_id="r-1")
    assert click.to_stream() == CLICK_ENTRY
    assert EXPOSURE.to_stream() == EXPOSURE_ENTRY


@pytest.mark.parametrize("binary", [True, False])
def test_stream_entries_read_back_as_text_and_as_bytes(binary: bool) -> None:
    def fields(entry: dict[str, str]) -> Mapping[Any, Any]:
        return {key.encode(): value.encode() for key, value in entry.items()} if binary else entry

    assert Interaction.from_stream(fields(INTERACTION_ENTRY)) == INTERACTION
    assert Exposure.from_stream(fields(EXPOSURE_ENTRY)) == EXPOSURE


@pytest.mark.parametrize("version", ["0", "3", "", None])
def test_stream_entries_of_another_version_are_refused(version: str | None) -> None:
    changed = {} if version is None else {"v": version}
    with pytest.raises(ValueError, match="unknown version"):
        Interaction.from_stream({"event": INTERACTION_ENTRY["event"], **changed})
    with pytest.raises(ValueError, match="unknown version"):
        Exposure.from_stream({"exposure": EXPOSURE_ENTRY["exposure"], **changed})
    with pytest.raises(ValueError, match="unknown version"):
        Exposure.from_stream({**EXPOSURE_ENTRY, "v": "1"})  # before arms said how they came about


def test_damaged_stream_entries_are_refused() -> None:
    for cut in truncations(INTERACTION_ENTRY["event"].encode()):
        with pytest.raises(ValueError, match=r"."):
            Interaction.from_stream({b"v": b"1", b"event": cut})
    for cut in truncations(EXPOSURE_ENTRY["exposure"].encode()):
        with pytest.raises(ValueError, match=r"."):
            Exposure.from_stream({b"v": b"2", b"exposure": cut})


@pytest.mark.parametrize("field", ["user_id", "item_id"])
@pytest.mark.parametrize("text", ["u\0", "\n", "é" * 129])
def test_ids_that_earlier_versions_let_through_are_refused_when_they_are_read(field: str, text: str) -> None:
    former = INTERACTION.model_copy(update={field: text})
    with pytest.raises(ValueError, match=r"the id .* must "):
        Interaction.from_stream(former.to_stream())


@pytest.mark.parametrize(
    "change",
    [
        {"user_id": ""}, {"user_id": "u" * 257}, {"item_id": ""}, {"type": ""}, {"time_ms": -1}, {"time_ms": 2**53},
        {"value": float("nan")}, {"value": float("inf")}, {"extra": 1},
    ],
)  # fmt: skip
def test_impossible_interactions_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Interaction.model_validate({**INTERACTION.model_dump(), **change})


_kinds = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
_ids = st.text(st.characters(codec="utf-8", min_codepoint=32, exclude_characters="\x7f"), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(user=_ids, item=_ids, kind=_kinds, value=st.floats(-1e6, 1e6, width=32), time_ms=st.integers(0, 2**53 - 1))
def test_interactions_round_trip(user: str, item: str, kind: str, value: float, time_ms: int) -> None:
    interaction = Interaction(user_id=user, item_id=item, type=kind, value=value, time_ms=time_ms)
    assert Interaction.from_stream(interaction.to_stream()) == interaction
    events, refused = unpack_history(user, interaction.pack())
    assert (len(events), refused) == (1, 0)
    assert (int(events["item"][0]), int(events["time_ms"][0])) == (item_hash(item), time_ms)
    assert float(events["value"][0]) == value


def _history(*owners: str) -> bytes:
    return b"".join(
        Interaction(user_id=owner, item_id=f"i{at}", value=at, time_ms=at).pack() for at, owner in enumerate(owners)
    )


def test_a_history_unpacks_in_order() -> None:
    events, refused = unpack_history("me", _history("me", "me", "me"))
    assert (events["time_ms"].tolist(), refused) == ([0, 1, 2], 0)
    assert unpack_history("me", b"")[0].tolist() == []


def test_events_of_another_user_are_refused_and_counted() -> None:
    events, refused = unpack_history("me", _history("me", "you", "me", "you"))
    assert (events["time_ms"].tolist(), refused) == ([0, 2], 2)


@pytest.mark.parametrize("tail", range(1, EVENT_BYTES))
def test_a_torn_tail_is_refused_and_the_rest_kept(tail: int) -> None:
    events, refused = unpack_history("me", _history("me", "me") + b"\0" * tail)
    assert (events["time_ms"].tolist(), refused) == ([0, 1], 1)


@pytest.mark.parametrize("shift", range(1, EVENT_BYTES))
def test_a_read_that_begins_inside_an_event_yields_nothing(shift: int) -> None:
    events, refused = unpack_history("me", _history("me", "me", "me")[shift:])
    assert len(events) == 0
    assert refused > 0


def test_a_history_digest_tells_order_and_content() -> None:
    digest = history_digest(np.frombuffer(PACKED, EVENT_DTYPE))
    assert digest == "22f510c5592ba15e"
    events = np.frombuffer(_history("me", "me"), EVENT_DTYPE)
    assert history_digest(events) != history_digest(events[::-1]) != digest
    assert history_digest(events[:0]) == "e4a6a0577479b2b4"


def test_a_profile_packs_to_golden_bytes_and_back() -> None:
    assert PROFILE.pack() == PROFILE_BYTES
    assert UserProfile.unpack(PROFILE_BYTES, "zoë") == PROFILE


def test_damaged_profiles_are_refused() -> None:
    for damaged in (*truncations(PROFILE_BYTES), PROFILE_BYTES.replace(b'"v":1', b'"v":2'), b"null", b'{"v":1}'):
        with pytest.raises(RecordError, match="damaged"):
            UserProfile.unpack(damaged, "zoë")


def test_a_profile_of_another_owner_is_refused() -> None:
    with pytest.raises(RecordError, match="another owner"):
        UserProfile.unpack(PROFILE_BYTES, "zoe")


def test_a_changed_byte_in_a_profile_never_escapes_as_another_error() -> None:
    # JSON carries no checksum, so some changes stay valid; what is refused is refused as RecordError.
    for damaged in flips(PROFILE_BYTES):
        try:
            read = UserProfile.unpack(damaged, "zoë")
        except RecordError:
            continue
        assert read.owner == "zoë"


_values = st.none() | st.text(st.characters(codec="utf-8"), max_size=10) | st.integers(-(2**53), 2**53)


@settings(max_examples=60, deadline=None)
@given(owner=_ids, features=st.dictionaries(_ids, _values | st.floats(allow_nan=False, allow_infinity=False)))
def test_profiles_round_trip(owner: str, features: dict[str, str | int | float | None]) -> None:
    profile = UserProfile(owner=owner, features=features)
    assert UserProfile.unpack(profile.pack(), owner) == profile


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ((b"2", b'{"user_id": "u", "unit": "t"}'), {"u", "t"}),
        ((b'{"user_id": "u", "unit": ""}',), {"u"}),
        ((b'{"items": ["u"]}',), set()),
        ((b"3", b"[1]"), None),
        ((b"\xff", b'"u" and then damaged'), None),
    ],
)
def test_an_entry_is_about_whom_its_json_names(values: tuple[bytes, ...], names: set[str] | None) -> None:
    assert names_in(values) == names
