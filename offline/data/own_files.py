"""The user's own data: interactions, users and items in text or Parquet files whose columns the configuration names;
and further columns of the items of any source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import polars as pl

from models.contract.arrays import IntArray
from models.contract.profile import UserProfile
from offline.data.catalogue import Catalogue
from offline.data.columns import admitted, feature, ids, parts, times, values
from offline.data.config import ColumnConfig, DataConfig, FeaturesConfig
from offline.data.repetitions import single_pairs
from offline.data.rules import Place, Problems, counted
from offline.data.tables import Part, paths, read, state
from offline.data.validate import Row

_CHUNK = 100_000
_COLUMNS: dict[str, type[pl.DataType]] = {
    "user": pl.String, "item": pl.String, "value": pl.Float64, "time_ms": pl.Int64, "part": pl.Int8,
    "file": pl.String, "row": pl.Int64,
}  # fmt: skip


class Descriptions:
    """Features by id in order of appearance, where each id stands, and the features' names. An id that is described
    twice keeps its first description, unless ``repeated`` says that the last counts; ``further`` rows describe an id
    again. ``absent`` features lack a column that can be read; ``without_ids`` says that a file lacks the column of
    ids."""

    def __init__(self) -> None:
        self.features: dict[str, dict[str, Any]] = {}
        self.columns: set[str] = set()
        self.places: dict[str, Place] = {}
        self.absent: set[str] = set()
        self.without_ids = False
        self.further = 0

    @classmethod
    def of(cls, config: FeaturesConfig, name: str, problems: Problems) -> Descriptions:
        """The descriptions in the files of the table ``name``: "users", "items" or "item_extra"."""
        descriptions, own = cls(), Problems()
        for part in read(config, own):
            descriptions._add(part, config, own)
        absent = descriptions.absent if descriptions.columns else descriptions.absent | set(config.columns)
        side = "items" if name == "item_extra" else name
        own.unread |= {f"{side}.{column}" for column in absent}
        if own.hides_rows or descriptions.without_ids:
            own.unread.add(name)
        if descriptions.further and config.repeated is not None:
            rows = counted(descriptions.further, "row")
            own.facts.append(f"{name}: {rows} more than ids: of those of an id the {config.repeated} counts")
        problems.include(own)
        return descriptions

    def _add(self, part: Part, config: FeaturesConfig, problems: Problems) -> None:
        """The descriptions of one file."""
        keys = part.cells(config.id, problems)
        columns: dict[str, list[Any]] = {}
        chosen: dict[str, ColumnConfig | None] = dict(config.columns) or {
            name: None for name in part.frame.columns if name != config.id
        }
        for name, column in chosen.items():
            cells = part.cells((column.column if column is not None else None) or name, problems)
            refused = problems.count("feature_type")
            if cells is not None:
                columns[name] = feature(cells, column, problems)
            if cells is None or problems.count("feature_type") > refused:
                self.absent.add(name)
        self.columns.update(columns)
        if keys is None:
            self.without_ids = True
            return
        key_of_row = ids(keys, problems).to_list()
        bad = problems.bad_rows.of(part.file)
        for at, (row, key) in enumerate(zip(part.rows.to_list(), key_of_row, strict=True)):
            if key is None or row in bad:
                continue
            features = {name: values[at] for name, values in columns.items()}
            place = Place(part.file, row, config.id, key)
            is_further = key in self.features
            self.further += is_further
            if not is_further or config.repeated == "last":
                self.features[key], self.places[key] = features, place
            elif config.repeated == "first":
                continue
            elif self.features[key] == features:
                problems.add("row_repeated", place)
            else:
                problems.add("id_repeated", self.places[key], place)

    def check_profiles(self, problems: Problems) -> None:
        """Users' features travel in profile records: one value of each column tells whether they fit."""
        for name in sorted(self.columns):
            key = next((key for key, features in self.features.items() if features.get(name) is not None), None)
            if key is None:
                continue
            value = self.features[key][name]
            try:
                UserProfile.model_validate({"owner": key, "features": {name: value}})
            except ValueError:
                problems.add("profile", Place(self.places[key].file, self.places[key].row, name, value))


def join_columns(
    catalogue: Catalogue, tables: Sequence[FeaturesConfig], columns: set[str], problems: Problems
) -> Catalogue:
    """The catalogue with further columns of its items. Their names are added to ``columns``, those it has so far."""
    items = {item: dict(features) for item, features in catalogue.items.items()}
    for table in tables:
        extra = Descriptions.of(table, "item_extra", problems)
        for name in sorted(columns & extra.columns):
            problems.add("column_repeated", Place(", ".join(table.paths), None, name))
        columns |= extra.columns
        for item, features in extra.features.items():
            if item in items:
                items[item] |= features
            elif "items" not in problems.unread:
                problems.add("extra_unknown", extra.places[item])
    return Catalogue(catalogue.users, items)


class OwnFiles:
    """The source; see ``offline.data.dataset.Reader``. Files are read once per object."""

    def __init__(self, config: DataConfig) -> None:
        assert config.interactions is not None
        assert config.items is not None
        self._interactions = config.interactions
        self._users, self._items = config.users, config.items
        self._descriptions = [table for table in (self._users, self._items) if table is not None]
        self._labels, self._nobody = config.labels.kind, config.nobody

    @property
    def item_columns(self) -> frozenset[str]:
        return frozenset(self._described[1].columns)

    def state(self) -> dict[str, str]:
        """SHA-256 of every file, by path; hashed once per object."""
        return state([self._interactions]) | self.described()

    def described(self) -> dict[str, str]:
        return self._description_files

    def fetch(self) -> bool:
        """Nothing is fetched; DataError names the files that are not there."""
        problems = Problems()
        for table in (self._interactions, *self._descriptions):
            paths(table, problems)
        problems.raise_if_broken()
        return False

    def catalogue(self, problems: Problems) -> Catalogue:
        """Users and items in file order."""
        users, items, noted = self._described
        problems.include(noted)
        return Catalogue(users.features, items.features)

    def rows(self, problems: Problems) -> Iterator[Row]:
        """Interactions in file order, without those that break a rule."""
        frame, noted = self._parsed
        problems.include(noted)
        for chunk in frame.iter_slices(_CHUNK):
            yield from chunk.select("user", "item", "value", "time_ms").iter_rows()

    def parts(self) -> IntArray | None:
        """The part of each interaction, where a column tells it."""
        frame, _ = self._parsed
        return None if self._interactions.split_column is None else frame["part"].cast(pl.Int64).to_numpy()

    def place(self, number: int) -> Place:
        frame, _ = self._parsed
        return Place(frame["file"][number], frame["row"][number])

    @cached_property
    def _description_files(self) -> dict[str, str]:
        return state(self._descriptions)

    @cached_property
    def _described(self) -> tuple[Descriptions, Descriptions, Problems]:
        problems = Problems()
        users = Descriptions() if self._users is None else Descriptions.of(self._users, "users", problems)
        users.check_profiles(problems)
        return users, Descriptions.of(self._items, "items", problems), problems

    @cached_property
    def _parsed(self) -> tuple[pl.DataFrame, Problems]:
        problems, chosen = Problems(), self._interactions.repeated
        frames, before = [pl.DataFrame(schema=_COLUMNS)], 0
        for part in read(self._interactions, problems):
            frames.append(self._part(part, before, problems))
            before += part.last_row
        frame = pl.concat(frames)
        if chosen is not None:
            every, frame = len(frame), single_pairs(frame, chosen)
            words = chosen.replace("_", " ")
            problems.facts.append(f"{every - len(frame)} of {every} rows repeat a user and an item: the {words} counts")
        return frame, problems

    def _part(self, part: Part, before: int, problems: Problems) -> pl.DataFrame:
        """The sound rows of one file. ``before`` rows lie in the files before it."""
        config = self._interactions
        for column, condition in config.keep.items():
            if (cells := part.cells(column, problems)) is not None:
                part = part.where(admitted(cells, condition, problems))
        absent = pl.repeat(None, len(part.rows), eager=True)
        columns: dict[str, pl.Series] = {"file": pl.repeat(part.file, len(part.rows), eager=True), "row": part.rows}
        readings: tuple[tuple[str, str | None, Callable[..., pl.Series]], ...] = (
            ("user", config.user, partial(ids, nobody=self._nobody)),
            ("item", config.item, partial(ids, nobody=self._nobody)),
            ("time_ms", config.time, partial(times, unit=config.time_unit, form=config.time_format)),
            ("value", config.value, partial(values, binary=self._labels == "binary")),
            ("part", config.split_column, partial(parts, numbers=config.split_values.numbers())),
        )
        for name, source, read_as in readings:
            if source is not None:
                cells = part.cells(source, problems)
                columns[name] = absent if cells is None else read_as(cells, problems=problems)
        columns.setdefault("time_ms", before + part.rows - 1)  # no times: rows lie in order
        columns.setdefault("value", pl.repeat(1.0, len(part.rows), eager=True))
        columns.setdefault("part", pl.repeat(0, len(part.rows), eager=True))
        typed = [columns[name].cast(kind).alias(name) for name, kind in _COLUMNS.items()]
        return pl.DataFrame(typed).drop_nulls()
