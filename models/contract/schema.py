"""The feature schema: which fields a user and an item have, and how a raw value becomes an index.

A schema is data. It travels inside the model artifact, and its fingerprint travels with every record that was
encoded under it, so training and serving can never disagree about a feature without noticing.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

FrozenConfig = ConfigDict(frozen=True, extra="forbid")

ITEM_NUMERIC = ("log_count", "mean_value", "liked_rate")
"""Running statistics of every item, in this order; see ``items.item_statistics``."""

UNKNOWN = 0
"""Index of an unknown, missing or padded value in every categorical feature."""

_REMEMBERED = 10_000
"""Values that are kept while many are encoded: a bound for fields in which every value is another."""


def fingerprint(document: Any, length: int = 16) -> str:
    """First ``length`` hex digits of the SHA-256 of a JSON document in canonical form."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:length]


class FieldSpec(BaseModel):
    """One categorical field. Either a closed ``vocab`` of strings, or ``edges`` that cut a number into buckets.

    ``slots`` is how many values one user or item may carry (a film has several genres); further values are dropped.
    Texts are compared in Unicode's composed form (NFC): the two spellings of "é" are one value. Letters that only look
    alike, or differ by case or width, are not.
    """

    model_config = FrozenConfig

    name: str
    vocab: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()
    slots: Annotated[int, Field(ge=1, le=64)] = 1

    @model_validator(mode="after")
    def _has_vocab_or_edges(self) -> FieldSpec:
        if bool(self.vocab) == bool(self.edges):
            raise ValueError(f"field {self.name!r} needs either vocab or edges")
        if len(self._index) != len(self.vocab):
            raise ValueError(f"field {self.name!r} repeats a vocabulary entry")
        if list(self.edges) != sorted(set(self.edges)):
            raise ValueError(f"field {self.name!r} needs strictly rising edges")
        return self

    @property
    def cardinality(self) -> int:
        """Number of indices, the unknown index included."""
        return len(self.vocab) + 1 if self.vocab else len(self.edges) + 2

    @cached_property
    def _index(self) -> dict[str, int]:
        return {_composed(value): position for position, value in enumerate(self.vocab, start=1)}

    def encode(self, value: object) -> list[int]:
        """Indices of a raw value, padded to ``slots``. Whatever is not understood becomes ``UNKNOWN``; never raises."""
        values: Sequence[object] = value if isinstance(value, (list, tuple)) else (value,)
        indices = [self._code_of(entry) for entry in values[: self.slots]]
        return indices + [UNKNOWN] * (self.slots - len(indices))

    def encode_each(self, values: Iterable[object]) -> list[int]:
        """``encode`` of each value, one after the other. Of equal strings, whole numbers and lists of strings only the
        first is looked at; other equal values may differ here, as 1 and True do in a vocabulary."""
        known: dict[object, list[int]] = {}
        indices: list[int] = []
        for value in values:
            key: object = value
            if type(value) is list and {str}.issuperset(map(type, value)):
                key = tuple(value)
            elif type(value) is not str and type(value) is not int:
                indices += self.encode(value)
                continue
            encoded = known.get(key)
            if encoded is None:
                encoded = self.encode(value)
                if len(known) < _REMEMBERED:
                    known[key] = encoded
            indices += encoded
        return indices

    def _code_of(self, value: object) -> int:
        if value is None:
            return UNKNOWN
        if self.vocab:
            code = self._index.get(text := str(value))
            return self._index.get(_composed(text), UNKNOWN) if code is None else code
        try:
            number = float(value)  # type: ignore[arg-type]  # anything float() refuses is unknown
        except (TypeError, ValueError, OverflowError):
            return UNKNOWN
        return UNKNOWN if number != number else bisect_right(self.edges, number) + 1


def _composed(text: str) -> str:
    """The text in NFC."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


class KnowledgeSpec(BaseModel):
    """Knowledge of users or of items that a model reads: up to ``rows`` vectors of ``dim`` numbers per owner.

    ``name`` is the producer. Several rows are a sequence, oldest first: the last partitions of a user.
    """

    model_config = FrozenConfig

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
    side: Literal["user", "item"]
    rows: Annotated[int, Field(ge=1, le=255)] = 1
    dim: Annotated[int, Field(ge=1, le=4096)]

    @property
    def key(self) -> str:
        """The spec's name in manifests and in reports: "user/liber"."""
        return f"{self.side}/{self.name}"


class RunningSpec(BaseModel):
    """Running features that a model reads beside fields and history: how often, how lately and with which values a user
    met an item and what shares its fields (models/ctr/running.py).

    ``half_lives_days`` are those of items' trends and of users' counts that forget by the clock; without any, nothing
    is read of the clock, as for interactions that have an order alone.
    """

    model_config = FrozenConfig

    half_lives_days: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(max_length=8)] = ()

    @property
    def is_timed(self) -> bool:
        return bool(self.half_lives_days)


class FeatureSchema(BaseModel):
    """All that is needed to turn users, items and events into model inputs.

    Values of interactions (star ratings) lie from ``value_min`` to ``value_max``; what lies outside is refused where it
    enters. ``value_center`` and ``value_scale`` normalise them; values above ``liked_above`` count as positive.
    ``history_types`` are the interaction types that enter the live history. ``knowledge`` is what a model reads beside
    fields and history: any number of spaces per side, of which one user space may be a sequence.
    """

    model_config = FrozenConfig

    version: int = 1
    name: str
    user_fields: tuple[FieldSpec, ...]
    item_fields: tuple[FieldSpec, ...]
    history_length: Annotated[int, Field(ge=1, le=4096)]
    history_types: tuple[str, ...] = ("rating",)
    value_min: float = 1.0
    value_max: float = 5.0
    value_center: float = 3.0
    value_scale: Annotated[float, Field(gt=0)] = 2.0
    liked_above: float = 3.0
    prior_liked: Annotated[float, Field(gt=0, lt=1)] = 0.5
    knowledge: tuple[KnowledgeSpec, ...] = ()
    running: RunningSpec | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_off(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Schemas without running features are written, and fingerprinted, as before there were any."""
        document: dict[str, Any] = serialize(self)
        if self.running is None:
            document.pop("running", None)
        return document

    @model_validator(mode="after")
    def _is_consistent(self) -> FeatureSchema:
        for fields in (self.user_fields, self.item_fields):
            names = [field.name for field in fields]
            if len(set(names)) != len(names):
                raise ValueError(f"schema {self.name!r} repeats a field name")
        keys = [spec.key for spec in self.knowledge]
        if len(set(keys)) != len(keys):
            raise ValueError(f"schema {self.name!r} repeats knowledge")
        if any(spec.rows > 1 for spec in self.item_knowledge):
            raise ValueError(f"schema {self.name!r}: an item has one vector per space")
        if sum(spec.rows > 1 for spec in self.user_knowledge) > 1:
            raise ValueError(f"schema {self.name!r}: only one space of a user may be a sequence")
        if not self.value_min <= self.liked_above < self.value_max:
            raise ValueError(f"schema {self.name!r} needs value_min <= liked_above < value_max")
        return self

    def accepts(self, value: float) -> bool:
        """Whether an interaction of a history type may carry this value."""
        return self.value_min <= value <= self.value_max

    @property
    def default_type(self) -> str:
        """The type of an interaction that names none: the first that enters the history."""
        return self.history_types[0] if self.history_types else "rating"

    @property
    def default_value(self) -> float | None:
        """The value of an interaction that names none: that of a like where values are labels, as those of purchases
        are; None where a value is a rating, which nobody can guess."""
        return self.value_max if (self.value_min, self.value_max) == (0.0, 1.0) else None

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change whenever encoded features would."""
        return fingerprint(self.model_dump(mode="json"))

    @cached_property
    def user_knowledge(self) -> tuple[KnowledgeSpec, ...]:
        return tuple(spec for spec in self.knowledge if spec.side == "user")

    @cached_property
    def item_knowledge(self) -> tuple[KnowledgeSpec, ...]:
        return tuple(spec for spec in self.knowledge if spec.side == "item")

    @cached_property
    def sequence(self) -> KnowledgeSpec | None:
        """The user space that holds several vectors per user, if there is one."""
        return next((spec for spec in self.knowledge if spec.rows > 1), None)

    @cached_property
    def user_columns(self) -> dict[str, slice]:
        """Where each single-vector user space lies in the joined user vector, by name."""
        return _columns([spec for spec in self.user_knowledge if spec.rows == 1])

    @cached_property
    def item_columns(self) -> dict[str, slice]:
        """Where each item space lies in the joined item vector, by name."""
        return _columns(self.item_knowledge)

    @property
    def half_lives_ms(self) -> npt.NDArray[np.float64]:
        """Half-lives [K] of trends and of counts that forget by the clock."""
        days = self.running.half_lives_days if self.running else ()
        return np.asarray(days, np.float64) * 86_400_000.0

    @property
    def item_numbers(self) -> int:
        """How many numeric features an item has; see ``items.item_statistics``."""
        return len(ITEM_NUMERIC) + len(self.half_lives_ms)

    @property
    def user_width(self) -> int:
        """Length of the joined user vector."""
        return sum(spec.dim for spec in self.user_knowledge if spec.rows == 1)

    @property
    def item_width(self) -> int:
        """Length of the joined item vector."""
        return sum(spec.dim for spec in self.item_knowledge)

    def with_knowledge(self, names: Sequence[str]) -> FeatureSchema:
        """This schema with the knowledge of the producers ``names`` only."""
        knowledge = tuple(spec for spec in self.knowledge if spec.name in names)
        return FeatureSchema.model_validate({**self.model_dump(), "knowledge": knowledge})

    @property
    def user_slots(self) -> int:
        return sum(field.slots for field in self.user_fields)

    @property
    def item_slots(self) -> int:
        return sum(field.slots for field in self.item_fields)

    def encode_user_fields(self, features: Mapping[str, object]) -> list[int]:
        return _encode_fields(self.user_fields, features)

    def encode_item_fields(self, features: Mapping[str, object]) -> list[int]:
        return _encode_fields(self.item_fields, features)

    def encode_each_item(self, items: Sequence[Mapping[str, object]]) -> npt.NDArray[np.int32]:
        """``encode_item_fields`` of each item: int32 [n, item_slots]."""
        columns = [np.zeros((len(items), 0), np.int32)]
        for field in self.item_fields:
            indices = np.array(field.encode_each([item.get(field.name) for item in items]), np.int32)
            columns.append(indices.reshape(len(items), field.slots))
        return np.concatenate(columns, axis=1)


def _columns(specs: Sequence[KnowledgeSpec]) -> dict[str, slice]:
    ends = [sum(spec.dim for spec in specs[: at + 1]) for at in range(len(specs))]
    return {spec.name: slice(end - spec.dim, end) for spec, end in zip(specs, ends, strict=True)}


def _encode_fields(fields: Sequence[FieldSpec], features: Mapping[str, object]) -> list[int]:
    return [index for field in fields for index in field.encode(features.get(field.name))]
