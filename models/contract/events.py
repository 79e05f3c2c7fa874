"""Interactions: one user did something with one item at one time.

On the wire to the offline jobs an interaction is a stream entry. In the serving path a user's recent
interactions are one packed string of 24-byte events, appended atomically and read with one GETRANGE, so a user
with 10,000 events costs the same as one with 50.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json

from models.contract.ids import ID_BYTES, ID_DEMANDS, id_fault
from models.contract.times import LIMIT_MS

EVENT_DTYPE = np.dtype([("item", "<u8"), ("time_ms", "<i8"), ("owner", "<u4"), ("value", "<f4")])
"""One event of a live history. ``item`` is ``item_hash``, ``owner`` is ``owner_tag`` of the user it belongs to."""

EVENT_BYTES = EVENT_DTYPE.itemsize

EventArray = npt.NDArray[np.void]

Identifier = Annotated[str, Field(min_length=1, max_length=ID_BYTES)]


def item_hash(item_id: str) -> int:
    """64-bit hash of an item id. At 10 million items two ids collide with a probability of 3e-6."""
    return int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=8).digest(), "little")


def owner_tag(user_id: str) -> int:
    """32-bit hash of a user id, repeated in every event so that a misdelivered history is recognised."""
    return int.from_bytes(hashlib.blake2b(user_id.encode(), digest_size=4).digest(), "little")


class Interaction(BaseModel):
    """One interaction as the offline jobs read it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    user_id: Identifier
    item_id: Identifier
    type: Annotated[str, Field(min_length=1, max_length=64)] = "rating"
    value: Annotated[float, Field(ge=-1e9, le=1e9)]
    time_ms: Annotated[int, Field(ge=0, lt=LIMIT_MS)]
    request_id: str | None = None

    def to_stream(self) -> dict[str, str]:
        """Fields of the stream entry."""
        return {"v": "1", "event": self.model_dump_json(exclude_none=True)}

    @classmethod
    def from_stream(cls, fields: Mapping[Any, Any]) -> Interaction:
        """Inverse of ``to_stream``, for bytes or text; ValueError if the entry is damaged or of another version, or if
        an id breaks a rule that earlier versions did not have."""
        interaction = cls.model_validate_json(entry_fields(fields, "interaction", "1").get("event", ""))
        for text in (interaction.user_id, interaction.item_id):
            if fault := id_fault(text):
                raise ValueError(f"the id {text!r} {ID_DEMANDS[fault]}")
        return interaction

    def pack(self) -> bytes:
        """The 24 bytes that the live history holds. Equal interactions pack to equal bytes."""
        event = np.zeros(1, EVENT_DTYPE)
        event["item"] = item_hash(self.item_id)
        event["time_ms"] = self.time_ms
        event["owner"] = owner_tag(self.user_id)
        event["value"] = self.value
        return event.tobytes()


def unpack_history(user_id: str, blob: bytes) -> tuple[EventArray, int]:
    """Events of a packed history, oldest first, and how many bytes' worth of events were refused.

    Events that carry another user's tag, and a tail that is not whole, are refused and counted.
    """
    whole = len(blob) - len(blob) % EVENT_BYTES
    # A read of the last n events may begin inside an event only if the stored string is damaged.
    events = np.frombuffer(blob[:whole], EVENT_DTYPE)
    mine = events["owner"] == owner_tag(user_id)
    refused = int((~mine).sum()) + (1 if whole != len(blob) else 0)
    return (events if refused == 0 else events[mine]), refused


def entry_fields(fields: Mapping[Any, Any], kind: str, version: str) -> dict[str, str]:
    """Fields of a stream entry as text; ValueError if it is of another version."""
    texts = {_text(name): _text(value) for name, value in fields.items()}
    if texts.get("v") != version:
        raise ValueError(f"{kind} entry of unknown version {texts.get('v')!r}")
    return texts


def names_in(values: Iterable[bytes]) -> frozenset[str] | None:
    """User and unit that the values of a stream entry are about, of whatever version, as far as they are JSON that says
    so; None if they are none."""
    documents = []
    for value in values:
        with suppress(ValueError):
            document = from_json(value)  # which refuses endless nesting, and text that is no UTF-8
            documents += [document] if isinstance(document, dict) else []
    if not documents:
        return None
    named = (document.get(name) for document in documents for name in ("user_id", "unit"))
    return frozenset(str(name) for name in named if name)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
