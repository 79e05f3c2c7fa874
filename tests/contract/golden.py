"""The objects whose packed forms are written out literally in these tests, and damage done to packed records."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from models.contract.events import EVENT_DTYPE, Interaction
from models.contract.exposures import ArmTaken, Exposure, history_digest
from models.contract.knowledge import KnowledgeRecord, Space
from models.contract.profile import UserProfile
from models.contract.schema import FeatureSchema, FieldSpec, KnowledgeSpec
from tests.contract.item_record import ItemRecord

SPACE = "0123456789abcdef"
OTHER_SPACE = "fedcba9876543210"

SCHEMA = FeatureSchema(
    name="gold",
    user_fields=(FieldSpec(name="age", edges=(18, 35)),),
    item_fields=(FieldSpec(name="genres", vocab=("Drama", "Comedy"), slots=2), FieldSpec(name="year", edges=(1990,))),
    history_length=3,
    knowledge=(
        KnowledgeSpec(name="liber", side="user", rows=2, dim=3),
        KnowledgeSpec(name="item-text", side="item", dim=3),
        KnowledgeSpec(name="portrait", side="user", dim=2),
        KnowledgeSpec(name="links", side="item", dim=1),
    ),
)
OTHER_SCHEMA = FeatureSchema.model_validate({**SCHEMA.model_dump(), "name": "other"})

ITEM_SPACE = Space(name="item-text", side="item", rows=1, dim=3, components={"llm": "m", "prompt": "p"})
USER_SPACE = Space(name="liber", side="user", rows=2, dim=3, dtype="int8", components={"encoder": "é"})
PORTRAIT_SPACE = Space(name="portrait", side="user", rows=1, dim=2, components={"llm": "m"})
LINKS_SPACE = Space(name="links", side="item", rows=1, dim=1, components={})
SPACES = (USER_SPACE, ITEM_SPACE, PORTRAIT_SPACE, LINKS_SPACE)

KNOWLEDGE = KnowledgeRecord(
    owner="zoë",
    space=SPACE,
    vectors=np.array([[1.0, -2.0, 0.5], [0.25, 3.0, -0.125]], np.float32),
    written_at=1_700_000_000,
    expires_at=1_702_592_000,
    codes=(7, 65535),
)
ITEM = ItemRecord("film 1", "7f82efc59afe30ba", 42, (1, 2, 0), (0.5, -0.25, 1.0), 1_700_000_000)
INTERACTION = Interaction(user_id="zoë", item_id="film 1", value=4.5, time_ms=1_700_000_000_123)
PROFILE = UserProfile(owner="zoë", features={"age": 31, "gender": "F", "score": 0.5, "none": None})
EXPOSURE = Exposure(
    request_id="r-1",
    user_id="zoë",
    unit="session 1",
    time_ms=5,
    release="a",
    arms=(ArmTaken(layer="model", experiment="new", arm="control", how="sticky"),),
    knowledge=True,
    degraded=("no_rerank",),
    latency_ms=1.5,
    candidates=3,
    items=("a", "b"),
    scores=(0.75, 0.25),
    item_features={"b": {"year": 1999}},
    history_events=1,
    history_digest=history_digest(np.frombuffer(INTERACTION.pack(), EVENT_DTYPE)),
    propensities=(0.5, 1.0),
)


def truncations(blob: bytes) -> Iterator[bytes]:
    """The blob cut off at every length."""
    return (blob[:length] for length in range(len(blob)))


def flips(blob: bytes) -> Iterator[bytes]:
    """The blob with one byte changed, at every position and in three ways."""
    for at in range(len(blob)):
        for mask in (0x01, 0x80, 0xFF):
            yield blob[:at] + bytes([blob[at] ^ mask]) + blob[at + 1 :]


def resealed(blob: bytes, at: int, byte: int) -> bytes:
    """The blob with another byte at ``at`` and a checksum that fits it: whole, but of another kind or version."""
    body = blob[:at] + bytes([byte]) + blob[at + 1 : -4]
    return body + struct.pack("<I", zlib.crc32(body))
