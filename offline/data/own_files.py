"""The user's own data: interactions, users and items in text or Parquet files whose columns the configuration names."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import polars as pl

from offline.data.catalogue import Catalogue
from offline.data.columns import ids, texts, times, values
from offline.data.config import DataConfig, FeaturesConfig
from offline.data.descriptions import Descriptions
from offline.data.rules import Place, Problems
from offline.data.tables import Part, paths, read, state
from offline.data.validate import Row

_CHUNK = 100_000
_COLUMNS: dict[str, type[pl.DataType]] = {
    "user": pl.String, "item": pl.String, "value": pl.Float64, "time_ms": pl.Int64, "file": pl.String, "row": pl.Int64,
}  # fmt: skip


class OwnFiles:
    """The source; see ``offline.data.source.Reader``. Files are read once per object."""

    def __init__(self, config: DataConfig) -> None:
        assert config.interactions is not None
        assert config.items is not None
        self._interactions = config.interactions
        self._users = config.users
        self._items = config.items
        self._labels = config.labels.kind

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
        """Where the interaction of that number (from 0) stands."""
        frame, _ = self._parsed
        return Place(frame["file"][number], frame["row"][number])

    @property
    def _descriptions(self) -> list[FeaturesConfig]:
        return [table for table in (self._users, self._items) if table is not None]

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
            "user": absent if user is None else ids(user, problems),
            "item": absent if item is None else ids(item, problems),
            "value": value,
            "time_ms": absent if time is None else times(time, config.time_unit, problems),
            "file": pl.repeat(part.file, len(part.rows), eager=True),
            "row": part.rows,
        }
        typed = [column.cast(_COLUMNS[name]).alias(name) for name, column in columns.items()]
        return pl.DataFrame(typed).drop_nulls()
