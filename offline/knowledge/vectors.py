"""Outputs of the producers: vectors of users and items in spaces, and which of them a sample may see.

User knowledge comes in versions: each holds from the moment that some interaction of the user arrived. Item knowledge
comes in slices of the log: slice m knows nothing that happened at or after its first row. Methods that read texts alone
have one slice. Knows arrays and files; does not know how a vector was made.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.contract.arrays import BoolArray, Codes, FloatArray, IntArray
from models.contract.knowledge import LEAST_PEAK, KnowledgeRecord, Space
from models.contract.schema import FeatureSchema, fingerprint
from offline.data.catalogue import DataError
from offline.data.files import read_arrays, write_arrays
from offline.data.log import InteractionLog

FORMER = "former"
"""Folder, in that of a producer, of a space that it made before and that may still be live."""

_FILE = "vectors.npz"
_DOCUMENT = "document"


@dataclass(frozen=True, slots=True)
class UserVectors:
    """Versions of all users in one space, grouped by user, oldest first.

    ``vectors`` [V, dim]; versions ``start[u] .. start[u + 1] - 1`` belong to user u; version v holds for samples at log
    rows after ``since[v]`` [V], which rises within a user. ``codes`` [V, k] or None. A record holds a user's last
    ``space.rows`` versions.
    """

    space: Space
    vectors: FloatArray
    start: IntArray
    since: IntArray
    codes: Codes | None = None

    def visible(self, user: IntArray, row: IntArray) -> IntArray:
        """How many versions of each ``user`` [n] a sample at log row ``row`` [n] may see."""
        owner = np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))
        far = int(max(self.since.max(initial=0), row.max(initial=0))) + 2
        place = np.searchsorted(owner * far + self.since + 1, user * far + row, side="right")
        return np.asarray(np.maximum(place - self.start[user], 0), np.int64)

    def of_user(self, user: int) -> FloatArray:
        """The published knowledge of a user: vectors [rows, dim], oldest first."""
        end = self.start[user + 1]
        return np.asarray(self.vectors[max(self.start[user], end - self.space.rows) : end])


@dataclass(frozen=True, slots=True)
class ItemVectors:
    """Items in one space.

    ``vectors`` [M, items, dim], zeros where ``known`` [items] is false; slice m holds for samples at log rows from
    ``from_row[m]`` [M] on, and the last one is what is published. ``codes`` [items, k] or None.
    """

    space: Space
    vectors: FloatArray
    known: BoolArray
    from_row: IntArray
    codes: Codes | None = None

    @classmethod
    def of_texts(cls, space: Space, vectors: FloatArray, known: BoolArray) -> ItemVectors:
        """One slice: vectors [items, dim] that know no interaction."""
        return cls(space, vectors[None], known, np.zeros(1, np.int64))

    @property
    def published(self) -> FloatArray:
        return np.asarray(self.vectors[-1])


@dataclass(frozen=True, slots=True)
class Lineage:
    """The log whose numbers vectors use: those of the first ``users`` and ``items`` of a log, whose ids have these
    fingerprints."""

    users: int
    items: int
    user_ids: str
    item_ids: str

    @classmethod
    def of(cls, log: InteractionLog, users: int | None = None, items: int | None = None) -> Lineage:
        """The lineage of a log's first ``users`` and ``items``, by default of all."""
        user_ids, item_ids = log.user_ids[:users], log.item_ids[:items]
        return cls(len(user_ids), len(item_ids), fingerprint(user_ids), fingerprint(item_ids))

    def fits(self, log: InteractionLog) -> bool:
        """Whether the log numbers them so. It may have more."""
        return self == self.of(log, self.users, self.items)


@dataclass(frozen=True, slots=True)
class Produced:
    """The output of one producer. ``texts`` are for people: the newest version of each user id in words.

    ``lineage`` says which log's users and items these are, once that is known. ``partial`` says that some texts were
    still to come then. ``former`` is the same knowledge in the space before this one, while that may still be live: a
    new space waits for a new model, which the gate may refuse.
    """

    users: UserVectors | None = None
    items: ItemVectors | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    lineage: Lineage | None = None
    partial: bool = False
    former: Produced | None = None

    @property
    def spaces(self) -> tuple[Space, ...]:
        return tuple(side.space for side in (self.users, self.items) if side is not None)

    def of(self, lineage: Lineage, *, partial: bool) -> Produced:
        """The same, with what is known of it at the end of a run."""
        former = None if self.former is None else self.former.of(lineage, partial=partial)
        return replace(self, lineage=lineage, partial=partial, former=former)

    @staticmethod
    def is_saved(folder: Path) -> bool:
        """Whether ``save`` put something there, by the table of contents alone."""
        try:
            with zipfile.ZipFile(folder / _FILE) as file:
                return f"{_DOCUMENT}.npy" in file.namelist()
        except (OSError, zipfile.BadZipFile):
            return False

    def save(self, folder: Path) -> None:
        """Put all of it into one file: a kill must not leave vectors under another result's spaces or ids. What is
        ``former`` has a file of its own, which says itself what it is."""
        if self.former is not None:
            self.former.save(folder / FORMER)
        arrays: dict[str, npt.NDArray[np.generic]] = {}
        if self.users is not None:
            arrays |= {"user_vectors": self.users.vectors, "start": self.users.start, "since": self.users.since}
            arrays |= {} if self.users.codes is None else {"user_codes": self.users.codes}
        if self.items is not None:
            arrays |= {"item_vectors": self.items.vectors, "known": self.items.known, "from_row": self.items.from_row}
            arrays |= {} if self.items.codes is None else {"item_codes": self.items.codes}
        document = {
            "spaces": [space.model_dump(mode="json") for space in self.spaces],
            "texts": dict(self.texts),
            "lineage": None if self.lineage is None else asdict(self.lineage),
            "partial": self.partial,
        }
        arrays[_DOCUMENT] = np.frombuffer(json.dumps(document, ensure_ascii=False).encode(), np.uint8)
        write_arrays(folder / _FILE, **arrays)

    @classmethod
    def load(cls, folder: Path) -> Produced:
        """Inverse of ``save``; DataError if it is absent, damaged or of another version."""
        if not cls.is_saved(folder):
            raise DataError(f"{folder / _FILE} is absent, damaged or of another version")
        a = read_arrays(folder / _FILE)
        users = items = None
        try:
            document = json.loads(a[_DOCUMENT].tobytes())
            for space in map(Space.model_validate, document["spaces"]):
                if space.side == "user":
                    users = UserVectors(space, a["user_vectors"], a["start"], a["since"], a.get("user_codes"))
                else:
                    items = ItemVectors(space, a["item_vectors"], a["known"], a["from_row"], a.get("item_codes"))
            lineage = None if document["lineage"] is None else Lineage(**document["lineage"])
            former = cls.load(folder / FORMER) if cls.is_saved(folder / FORMER) else None
            return cls(users, items, document["texts"], lineage, document["partial"], former)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{folder} holds knowledge of another version: {error}") from error


def forget_former(folder: Path) -> None:
    """Let go of the former spaces in a folder of producers: what is live reads the current ones."""
    for former in folder.glob(f"*/{FORMER}"):
        shutil.rmtree(former, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Knowledge:
    """All producers' knowledge by producer name."""

    produced: Mapping[str, Produced]

    @property
    def spaces(self) -> tuple[Space, ...]:
        return tuple(space for produced in self.produced.values() for space in produced.spaces)

    @property
    def users(self) -> Mapping[str, UserVectors]:
        return {name: produced.users for name, produced in self.produced.items() if produced.users is not None}

    @property
    def items(self) -> Mapping[str, ItemVectors]:
        return {name: produced.items for name, produced in self.produced.items() if produced.items is not None}

    def of(self, producers: Collection[str]) -> Knowledge:
        """The knowledge of some producers alone."""
        return Knowledge({name: produced for name, produced in self.produced.items() if name in producers})

    def schema(self, configured: FeatureSchema) -> FeatureSchema:
        """``configured`` with as much of its knowledge as there is.

        A producer that never finished, or finished under another shape, is left out.
        """
        shapes = {(space.key, space.rows, space.dim) for space in self.spaces}
        missing = {spec.name for spec in configured.knowledge if (spec.key, spec.rows, spec.dim) not in shapes}
        return configured.with_knowledge(tuple(name for name in self.produced if name not in missing))

    def of_user(self, user: int) -> dict[str, FloatArray]:
        """The knowledge of a user as the service reads it: vectors [rows, dim] by producer, as published."""
        published = {name: vectors.of_user(user) for name, vectors in self.users.items()}
        return {name: as_record(vectors, self.users[name].space) for name, vectors in published.items() if len(vectors)}

    def fits(self, users: int, items: int) -> bool:
        """Whether it was made from a log of so many users and items."""
        return all(len(vectors.start) == users + 1 for vectors in self.users.values()) and all(
            len(vectors.known) == items for vectors in self.items.values()
        )


def as_record(vectors: FloatArray, space: Space) -> FloatArray:
    """Vectors [rows, dim] as a reader of their record gets them back: rounded to the space's number format."""
    packed = KnowledgeRecord("", space.fingerprint, vectors, 0, 0).pack(space.dtype)
    return KnowledgeRecord.unpack(packed, "", space.fingerprint).vectors


def as_published(vectors: FloatArray, space: Space) -> FloatArray:
    """Vectors [n, dim] as a reader gets them back when each row is a record of its own.

    An int8 record of several rows shares one scale, so there a user's older rows may come back slightly different.
    """
    if space.dtype == "float16":
        return vectors.astype(np.float16).astype(np.float32)
    scale = np.abs(vectors).max(axis=-1, keepdims=True, initial=0.0).astype(np.float64) / 127.0
    scale = np.where(scale * 127.0 > LEAST_PEAK, scale, 1.0).astype(np.float32)
    return np.asarray(np.rint(vectors / scale) * scale + np.float32(0.0), np.float32)  # a record knows no -0.0
