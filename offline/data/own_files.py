"""The user's own data: interactions, users and items in text or Parquet files whose columns the configuration names;
and further columns of the items of any source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import polars as pl

from models.contract.profile import UserProfile
from offline.data.catalogue import Catalogue
from offline.data.columns import feature, ids, texts, times, values
from offline.data.config import ColumnConfig, DataConfig, FeaturesConfig
from offline.data.rules import Place, Problems
from offline.data.tables import Part, paths, read, state
from offline.data.validate import Row

_CHUNK = 100_000
_COLUMNS: dict[str, type[pl.DataType]] = {
    "user": pl.String, "item": pl.String, "value": pl.Float64, "time_ms": pl.Int64, "file": pl.String, "row": pl.Int64,
}  # fmt: skip


class Descriptions:
    """Features by id in order of appearance, where each id stands, and the features' names. An id that is described
    twice keeps its first description."""

    def __init__(self) -> None:
        self.features: dict[str, dict[str, Any]] = {}
        self.columns: set[str] = set()
        self.places: dict[str, Place] = {}

    @classmethod
    def of(cls, config: FeaturesConfig, problems: Problems) -> Descriptions:
        """The descriptions in a table's files."""
        descriptions = cls()
        for part in read(config, problems):
            descriptions._add(part, config, problems)
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
            if cells is not None:
                columns[name] = feature(cells, column, problems)
        self.columns.update(columns)
        if keys is None:
            return
        for at, (row, key) in enumerate(zip(part.rows.to_list(), ids(keys, problems).to_list(), strict=True)):
            if key is None:
                continue
            features = {name: values[at] for name, values in columns.items()}
            place = Place(part.file, row, config.id, key)
            if key not in self.features:
                self.features[key], self.places[key] = features, place
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
        extra = Descriptions.of(table, problems)
        for name in sorted(columns & extra.columns):
            problems.add("column_repeated", Place(", ".join(table.paths), None, name))
        columns |= extra.columns
        for item, features in extra.features.items():
            if item in items:
                items[item] |= features
            else:
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

    def place(self, number: int) -> Place:
        frame, _ = self._parsed
        return Place(frame["file"][number], frame["row"][number])

    @cached_property
    def _description_files(self) -> dict[str, str]:
        return state(self._descriptions)

    @cached_property
    def _described(self) -> tuple[Descriptions, Descriptions, Problems]:
        problems = Problems()
        users = Descriptions() if self._users is None else Descriptions.of(self._users, problems)
        users.check_profiles(problems)
        return users, Descriptions.of(self._items, problems), problems

    @cached_property
    def _parsed(self) -> tuple[pl.DataFrame, Problems]:
        problems = Problems()
        frames = [self._part(part, problems) for part in read(self._interactions, problems)]
        return pl.concat([pl.DataFrame(schema=_COLUMNS), *frames]), problems

    def _part(self, part: Part, problems: Problems) -> pl.DataFrame:
        """The sound rows of one file."""
        config = self._interactions
        for column, admitted in config.keep.items():
            if (cells := part.cells(column, problems)) is not None:
                part = part.where(texts(cells, problems).is_in(list(admitted)).fill_null(False))
        absent = pl.repeat(None, len(part.rows), eager=True)
        user, item, time = (part.cells(name, problems) for name in (config.user, config.item, config.time))
        if config.value is None:
            value = pl.repeat(1.0, len(part.rows), eager=True)
        elif (cells := part.cells(config.value, problems)) is not None:
            value = values(cells, self._labels == "binary", problems)
        else:
            value = absent
        columns = {
            "user": absent if user is None else ids(user, problems, self._nobody),
            "item": absent if item is None else ids(item, problems, self._nobody),
            "value": value,
            "time_ms": absent if time is None else times(time, config.time_unit, problems),
            "file": pl.repeat(part.file, len(part.rows), eager=True),
            "row": part.rows,
        }
        typed = [column.cast(_COLUMNS[name]).alias(name) for name, column in columns.items()]
        return pl.DataFrame(typed).drop_nulls()
