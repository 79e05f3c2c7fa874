"""Bytes of feedback bodies into interactions: what a caller leaves out is filled in, and what has no effect is counted.

Needs no web framework, and may run in any thread.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass
from typing import Literal

from msgspec.json import Decoder

from models.contract.events import Interaction
from models.contract.forgetting import Tombstones
from models.contract.ids import is_nobody
from models.contract.schema import FeatureSchema
from models.contract.times import time_fault
from service.api.parsing import body_of, checked_id, converted, document_of, new_request_id
from service.api.schemas import EventBody, FeedbackBody, IgnoredReply
from service.errors import ErrorCode, InvalidRequest, Unavailable

Reason = Literal["type", "nobody", "forgotten"]
"""Why an event has no effect on rankings, as answers say it."""

DEFAULT_HISTORY_TYPES: tuple[str, ...] = FeatureSchema.model_fields["history_types"].default
"""Types that enter the history while no release says otherwise: losing feedback because no model is loaded is worse."""

UNREAD_VALUE = 1.0
"""The value of an event that names none, where no history reads its type."""

NO_TOMBSTONES = Tombstones()

_FEEDBACK = Decoder(FeedbackBody)


@dataclass(frozen=True, slots=True)
class Feedback:
    """A valid body. ``interactions`` are to be stored, ``history_types`` are those of them that enter histories;
    ``ignored`` counts events by the reason why they have no effect on rankings, stored or not. ``places`` stand before
    the fields of each interaction in messages."""

    request_id: str
    interactions: tuple[Interaction, ...]
    history_types: tuple[str, ...]
    ignored: Counter[Reason]
    places: tuple[str, ...]

    def ignored_replies(self) -> list[IgnoredReply]:
        """``ignored`` in words."""
        read = ", ".join(map(repr, self.history_types)) or "none"
        messages: dict[Reason, str] = {
            "type": f"stored, but neither rankings nor training read events of this type; the release reads {read}",
            "forgotten": "not stored, because the user opted out, or was forgotten after it",
            "nobody": "not stored, because the id of the user or of the item names nobody (data.nobody)",
        }
        return [IgnoredReply(reason, count, messages[reason]) for reason, count in self.ignored.items()]


def parse_feedback(
    raw: bytes, schema: FeatureSchema | None, nobody: Container[str], tombstones: Tombstones = NO_TOMBSTONES
) -> Feedback:
    """The events of a body, which is a batch or one bare event. Errors as ``parse_rank``; Unavailable for an event
    that only a release could complete.

    ``schema`` is that of the loaded release: what enters the history must have a value that it accepts. Without a
    release every value is accepted, because losing feedback is worse, and the offline jobs check again. Events of
    ``nobody`` are checked as all others and then left out, and so are those that ``tombstones`` forbid to store.
    """
    now = int(time.time() * 1000)
    body, prefix = _batch(raw)
    interactions: list[Interaction] = []
    places: list[str] = []
    ignored = Counter[Reason]()
    types = DEFAULT_HISTORY_TYPES if schema is None else schema.history_types
    for position, event in enumerate(body.events):
        interaction = _interaction(event, schema, now, prefix.format(position), body.request_id)
        if is_nobody(interaction.user_id, nobody) or is_nobody(interaction.item_id, nobody):
            ignored["nobody"] += 1
            continue
        if tombstones.forbids(interaction.user_id, interaction.time_ms):
            ignored["forgotten"] += 1
            continue
        if schema is not None and interaction.type not in types:  # without one nobody knows what will read it
            ignored["type"] += 1
        interactions.append(interaction)
        places.append(prefix.format(position))
    return Feedback(body.request_id or new_request_id(), tuple(interactions), types, ignored, tuple(places))


def _batch(raw: bytes) -> tuple[FeedbackBody, str]:
    """A batch, if only of one bare event; and what stands before the fields of its events in messages."""
    try:
        return body_of(_FEEDBACK, raw), "events[{}]."
    except InvalidRequest:
        document = document_of(raw)
        if not isinstance(document, dict) or "events" in document:
            raise
    if "item_id" not in document:
        raise InvalidRequest("a batch has events, and a bare event an item_id; there is neither", field="events")
    event = converted(document, EventBody)
    return FeedbackBody(request_id=event.request_id, events=[event]), ""


def _interaction(
    event: EventBody, schema: FeatureSchema | None, now: int, place: str, request_id: str | None
) -> Interaction:
    """What the event says, with the time ``now``, the ``request_id`` of its batch, and the release's type and value in
    place of what it does not say. ``place`` stands before the names of its fields in errors."""
    time_ms = now if event.timestamp_ms is None else event.timestamp_ms
    if fault := time_fault(time_ms, now):
        raise InvalidRequest(fault, field=f"{place}timestamp_ms")
    default = DEFAULT_HISTORY_TYPES[0] if schema is None else schema.default_type
    kind = default if event.type is None else event.type
    return Interaction(
        user_id=checked_id(event.user_id, f"{place}user_id"),
        item_id=checked_id(event.item_id, f"{place}item_id"),
        type=kind,
        value=_value(event.value, kind, schema, f"{place}value"),
        time_ms=time_ms,
        request_id=event.request_id or request_id,
    )


def _value(value: float | None, kind: str, schema: FeatureSchema | None, field: str) -> float:
    """The value of an event of a type. InvalidRequest if the history reads it and the schema does not accept it."""
    if kind not in (DEFAULT_HISTORY_TYPES if schema is None else schema.history_types):
        return UNREAD_VALUE if value is None else value
    if schema is None:
        if value is None:
            message = "no release is loaded that says what an event without a value is worth: send one, or try again"
            raise Unavailable(message, code=ErrorCode.NO_RELEASE, field=field, retry_after_ms=1000)
        return value
    span = f"{schema.value_min:g} to {schema.value_max:g}"
    if value is None:
        value = schema.default_value
        if value is None:
            raise InvalidRequest(f"a {kind!r} needs a value, {span}: nobody can guess a rating", field=field)
    if not schema.accepts(value):
        raise InvalidRequest(f"the value of a {kind!r} must be {span}", field=field)
    return value
