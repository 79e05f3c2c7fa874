"""What Redis stores of a user, readable, as service and jobs export it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel
from pydantic_core import from_json

from models.contract.events import EventArray, Interaction, names_in, unpack_history
from models.contract.exposures import Exposure
from models.contract.forgetting import Tombstone
from models.contract.knowledge import KnowledgeRecord, RecordError
from models.contract.profile import UserProfile

ItemNames = Callable[[npt.NDArray[np.uint64]], Sequence[str | None]]
"""Ids of the items with these hashes, None where they are not known."""

ELSEWHERE = (
    "the source files of the jobs are yours: look for the user there",
    "backups of Redis and of the work folder hold former states",
    "the experiments file, if it forces the user's unit into an arm",
)
"""What no export has, for whoever answers a person."""


class UnreadEntry(BaseModel):
    """An entry of a stream that this version does not understand: damaged, or of another one. ``names``: the user and
    the unit that it is about, as far as it is JSON that says so; None if it is none."""

    fields: Mapping[str, str]
    names: frozenset[str] | None


def parsed_entry(stream: str, fields: Mapping[bytes, bytes]) -> BaseModel:
    """The content of an entry of a stream, "interactions" or "exposures"."""
    try:
        return Interaction.from_stream(fields) if stream == "interactions" else Exposure.from_stream(fields)
    except ValueError:
        texts = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}
        return UnreadEntry(fields=texts, names=names_in(fields.values()))


def store_of(key: str) -> str:
    """The store that a user's key is of: "knowledge" for all spaces."""
    tail = key.partition("}:")[2]
    return "knowledge" if tail.startswith("k:") else tail


def readable(
    user_id: str, values: Mapping[str, Any], entries: Mapping[str, Iterable[BaseModel]], item_names: ItemNames
) -> dict[str, Any]:
    """What Redis stores of a user, for people.

    values      what lies under each key: bytes, a list, or for a hash a list of names and values; None of another type
    entries     contents of entries, by stream
    item_names  names the items of the history
    """
    document: dict[str, Any] = {
        "history": [], "profile": None, "knowledge": {}, "arms": {}, "texts": None, "served_lists": 0,
    }  # fmt: skip
    for key, value in values.items():
        store = store_of(key)
        if value is None:
            document["unreadable"] = [*document.get("unreadable", []), store]
        elif store == "history":
            document["history"] = _events(unpack_history(user_id, value)[0], item_names)
        elif store == "profile":
            document["profile"] = _read(lambda blob: dict(UserProfile.unpack(blob, user_id).features), value)
        elif store == "knowledge":
            space = key.rpartition(":")[2]
            document["knowledge"][space] = _read(partial(_knowledge, user_id, space), value)
        elif store in ("texts", "export"):
            document[store] = _read(from_json, value)
        elif store == "served":
            document["served_lists"] = len(value)  # hashes of ids, which say nothing
        elif store == "arms":
            texts = [cell.decode(errors="replace") for cell in value]
            document["arms"][key] = dict(zip(texts[::2], texts[1::2], strict=True))
    for stream, of_stream in entries.items():
        document[stream] = [
            entry.model_dump(mode="json", exclude_none=True) for entry in of_stream if _is_data_of(entry, user_id)
        ]
    return document


def export_document(
    user_id: str, tombstone: Tombstone | None, stored: Mapping[str, Any], note: str = ""
) -> dict[str, Any]:
    """The export of a user, of whom ``readable`` tells what is ``stored`` in Redis; ``note`` says what is absent."""
    return {
        "user_id": user_id,
        "made_ms": time.time_ns() // 1_000_000,
        "tombstone": None if tombstone is None else tombstone.model_dump(exclude={"v"}),
        "stored": {name: records for name, records in stored.items() if name != "export"},
        "work_folder": stored.get("export"),
        "elsewhere": [*([note] if note else []), *ELSEWHERE],
    }


def _is_data_of(entry: BaseModel, user_id: str) -> bool:
    """Whether an entry is the user's own: where somebody else came with the user as unit, it is the other one's."""
    if isinstance(entry, UnreadEntry):
        return entry.names == frozenset((user_id,))
    return getattr(entry, "user_id", None) in (user_id, "")


def _events(events: EventArray, item_names: ItemNames) -> list[dict[str, Any]]:
    """The events of a history, with the ids of their items where they are known."""
    return [
        {"item_id": item, "item_hash": f"{int(event['item']):016x}", "time_ms": int(event["time_ms"]),
         "value": float(event["value"])}
        for item, event in zip(item_names(events["item"]), events, strict=True)
    ]  # fmt: skip


def _knowledge(user_id: str, space: str, blob: bytes) -> dict[str, Any]:
    record = KnowledgeRecord.unpack(blob, user_id, space)
    return {"written_at": record.written_at, "expires_at": record.expires_at, "codes": list(record.codes),
            "vectors": record.vectors.tolist()}  # fmt: skip


def _read(unpack: Callable[[bytes], Any], blob: bytes) -> Any:
    """What a record says; its bytes, if it is damaged: they are stored all the same."""
    try:
        return unpack(blob)
    except (RecordError, ValueError):
        return {"damaged": blob.hex()}
