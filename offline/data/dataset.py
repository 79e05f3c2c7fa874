"""The port to the data: where users, items and interactions come from, whatever the source.

``open_dataset`` gives a ``Dataset`` over one of three readers: MovieLens-100K, MovieLens-1M, or the user's own files.
It joins further item columns to whatever the reader gives, and refuses data that break a rule (rules.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import chain, compress, count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from models.contract.arrays import IntArray
from models.contract.schema import FeatureSchema, fingerprint
from offline.data.bad_rows import write_bad_rows
from offline.data.catalogue import Catalogue
from offline.data.config import DataConfig
from offline.data.log_settings import row_settings
from offline.data.movielens import MovieLens1M, MovieLens100K
from offline.data.rules import Findings, Place, Problems
from offline.data.texts import TemplateError
from offline.data.validate import Row, validate

BAD_ROWS = "bad_rows.csv"


class Reader(Protocol):
    """A source of data. Readers note broken rules and give what is left, so that all are found."""

    def fetch(self) -> bool:
        """Get the data; False if there was nothing to do. DataError if they cannot be had."""

    def state(self) -> Mapping[str, Any]:
        """A document that changes when the content does, cheap to compute."""

    def described(self) -> Mapping[str, Any]:
        """``state`` of what users and items are read from."""

    @property
    def item_columns(self) -> frozenset[str]:
        """Names of all item features; complete once the catalogue was read."""

    def catalogue(self, problems: Problems) -> Catalogue:
        """Users and items; the order of the ids is the tie-break of simultaneous events."""

    def rows(self, problems: Problems) -> Iterator[Row]:
        """Interactions in the order of the source."""

    def parts(self) -> IntArray | None:
        """The part of each interaction (0 train, 1 validation, 2 test), once the rows were read; None if the source
        does not tell."""

    def place(self, number: int) -> Place:
        """The place of the interaction of that number (from 0), once the rows were read."""


class Dataset:
    """One data set: users, items and interactions that keep every rule which can be told without the schema.

    ``bad_rows`` is the file that lists rows which are left out.
    """

    def __init__(self, config: DataConfig, reader: Reader, bad_rows: Path | None = None) -> None:
        self._config = config
        self._reader = reader
        self._bad_rows = bad_rows

    @property
    def leaves_last_out(self) -> bool:
        """Whether the last interactions of each user are the parts that validate and test."""
        return self._config.split_by == "leave_last_out"

    @property
    def brings_parts(self) -> bool:
        """Whether the data say which interactions train, validate and test."""
        return self._config.brings_parts

    @property
    def row_settings(self) -> dict[str, Any]:
        """The settings that decide which rows there are, by dotted name (log_settings.py)."""
        return row_settings(self._config)

    @property
    def nobody(self) -> tuple[str, ...]:
        """Ids that stand for nobody."""
        return self._config.nobody

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever users, items or interactions may have. Files are hashed once per object."""
        return self._of(self._reader.state())

    @cached_property
    def described(self) -> str:
        """Changes whenever users or items may have; new interactions alone leave it as it is."""
        return self._of(self._reader.described())

    def _of(self, files: Mapping[str, Any]) -> str:
        settings = self._config.model_dump(mode="json", exclude={"texts"})
        return fingerprint({"settings": settings, "files": dict(files), "extra": self._extra_files})

    @cached_property
    def _extra_files(self) -> dict[str, str]:
        if not self._config.item_extra:
            return {}
        from offline.data.tables import state

        return state(self._config.item_extra)

    def fetch(self) -> bool:
        """Get the data. False if they are here already; DataError if they cannot be had."""
        return self._reader.fetch()

    def catalogue(self) -> Catalogue:
        """Users and items. DataError names every rule that they break, and where."""
        problems = Problems()
        catalogue = self._catalogue(problems)
        problems.raise_if_broken()
        return catalogue

    def interactions(self, left_out: frozenset[int] = frozenset()) -> Iterator[Row]:
        """(user id, item id, value, unix ms), without the rows of the numbers ``left_out``. DataError names every rule
        that they break, before the first row."""
        problems = Problems()
        rows = self._reader.rows(problems)
        first = next(rows, None)  # a reader knows all problems before it gives the first row
        problems.raise_if_broken()
        every = chain([] if first is None else [first], rows)
        return compress(every, (number not in left_out for number in count())) if left_out else every

    def parts(self, left_out: frozenset[int] = frozenset()) -> npt.NDArray[np.int8] | None:
        """The parts of ``interactions`` (0 train, 1 validation, 2 test), if a column tells them."""
        parts = self._reader.parts()
        return None if parts is None else np.delete(parts, sorted(left_out)).astype(np.int8)

    def check(self, schema: FeatureSchema) -> Findings:
        """Everything that is wrong or worth a look, also against the feature schema, with facts about the data. Bad
        rows that may be left out are listed in their file."""
        problems = Problems()
        for contradiction in self._config.labels.contradictions(schema):
            problems.add("labels_schema", Place(note=contradiction))
        catalogue = self._catalogue(problems)
        rows = list(self._reader.rows(problems))
        if not any(name.startswith("items.") for name in problems.unread):
            for item, features in catalogue.items.items():
                if not self._config.texts.describes(features):
                    problems.add("item_nameless", Place(value=item))
        findings = validate(
            schema,
            catalogue,
            rows,
            problems,
            self._reader.place,
            implicit=self._config.labels.kind == "implicit",
            timed=self._config.timed,
            parts=self._reader.parts(),
        )
        if self._bad_rows is not None:
            write_bad_rows(self._bad_rows, findings.skipped)
        return findings

    def _catalogue(self, problems: Problems) -> Catalogue:
        catalogue = self._reader.catalogue(problems)
        columns = set(self._reader.item_columns)
        if self._config.item_extra:
            from offline.data.own_files import join_columns  # polars only where files are read

            catalogue = join_columns(catalogue, self._config.item_extra, columns, problems)
        # where the configuration names all columns, it was checked against them already
        if self._config.item_columns() is None and not {"items", "item_extra"} & problems.unread:
            try:
                self._config.texts.check_columns(columns)
            except TemplateError as error:
                problems.add("template_column", Place(note=str(error)))
        return catalogue


def open_dataset(config: DataConfig, raw: Path) -> Dataset:
    """The source that ``config`` names. ``raw`` is the folder for what is fetched, and for the list of rows that were
    left out."""
    if config.source == "movielens-100k":
        return Dataset(config, MovieLens100K(raw))
    if config.source == "movielens-1m":
        return Dataset(config, MovieLens1M(raw))
    from offline.data.own_files import OwnFiles  # polars only where files are read

    return Dataset(config, OwnFiles(config), raw / BAD_ROWS)
