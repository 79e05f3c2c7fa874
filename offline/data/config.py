"""The ``[data]`` part of a configuration: where interactions, users and items come from, and how texts speak of them.

Every model is frozen and refuses unknown keys and settings that could not take effect. Settings that came later are
left out of a dump while they have their defaults, so that what was made without them is still up to date.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from models.contract.ids import NOBODY
from models.contract.schema import FeatureSchema, FrozenConfig
from offline.data.row_config import Admitted, Names, PartsConfig, check_format
from offline.data.texts import TextsConfig

MOVIELENS_COLUMNS = ("title", "year", "genres")
"""Columns of the items of either MovieLens source."""


def _typed(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


def _is_empty(value: Any) -> bool:
    return not value


def _is_default_parts(value: Any) -> bool:
    return bool(value == PartsConfig())


def _is_time(value: Any) -> bool:
    return bool(value == "time")


def _is_nobody_as_ever(value: Any) -> bool:
    """Whether data that were read before there was such a list need not be read again."""
    return bool(value == NOBODY)


def _is_point(value: Any) -> bool:
    return bool(value == ".")


class TableConfig(BaseModel):
    """Files of one kind with the same columns. What a path ends in tells the format: .csv, .tsv, .txt, .dat, also
    with .gz, or .parquet. ``paths`` may hold ``*``; they are relative to the folder the job is started in.

    ``escape`` takes its special meaning from the next character of a text file: ``\\"`` is a quote inside of quotes.
    ``decimal`` stands before the fraction of a number; with a comma, points part thousands.
    ``bad_rows_at_most`` is the share of a file's rows that may be bad: they are left out and listed (bad_rows.py).
    """

    model_config = FrozenConfig

    paths: Names
    separator: Annotated[str, Field(min_length=1, max_length=4)] = ","
    quote: Annotated[str, Field(max_length=1)] = '"'
    escape: Annotated[str, Field(max_length=1, exclude_if=_is_empty)] = ""
    encoding: str = "utf-8"
    header: tuple[str, ...] = ()  # column names of text files whose first row is data already
    nulls: tuple[str, ...] = ("",)
    decimal: Annotated[Literal[".", ","], Field(exclude_if=_is_point)] = "."
    bad_rows_at_most: Annotated[float, Field(ge=0, le=1, exclude_if=_is_empty)] = 0.0

    @model_validator(mode="after")
    def _text_format_is_possible(self) -> TableConfig:
        if len(self.separator) > 1 and self.quote:
            raise ValueError('a separator of several characters needs quote = ""')
        if self.separator == self.quote or set(self.separator) & set("\r\n\x00\x1f"):
            raise ValueError(f"{self.separator!r} cannot separate columns")
        if self.escape and self.escape in (*self.separator, self.quote, *"\r\n\x00 "):
            raise ValueError(f"{self.escape!r} cannot be an escape")
        try:
            "".encode(self.encoding)
        except LookupError as error:
            raise ValueError(f"there is no encoding {self.encoding!r}") from error
        if len(set(self.header)) != len(self.header):
            raise ValueError("header repeats a column name")
        return self


class InteractionsConfig(TableConfig):
    """Columns of the interactions, and which rows count.

    ``time`` is read as ``time_unit`` or as ``time_format`` (of strptime) says; unit "order" is a whole number that says
    nothing but what came first. Without ``time``, the rows lie in order. ``keep`` admits only rows whose column holds
    one of the given texts, or a number that keeps the given comparisons. ``repeated``: which row of a user and an item
    counts; without it, all do. ``split_column`` tells the part of each row.
    """

    user: str
    item: str
    time: str | None = None
    time_unit: Literal["s", "ms", "iso", "order"] | None = None
    time_format: Annotated[str | None, Field(min_length=1, exclude_if=_is_empty)] = None
    value: str | None = None
    keep: Mapping[str, Admitted] = {}
    repeated: Annotated[Literal["first", "last", "most_common"] | None, Field(exclude_if=_is_empty)] = None
    split_column: Annotated[str | None, Field(exclude_if=_is_empty)] = None
    split_values: Annotated[PartsConfig, Field(exclude_if=_is_default_parts)] = PartsConfig()

    @model_validator(mode="after")
    def _times_are_read_in_one_way(self) -> Self:
        ways = [name for name in ("time_unit", "time_format") if getattr(self, name) is not None]
        if self.time is None and ways:
            raise ValueError(f"{ways[0]}: takes no effect without time")
        if self.time is not None and len(ways) != 1:
            raise ValueError("time needs either time_unit or time_format")
        if self.time_format is not None:
            check_format(self.time_format)
        if self.split_column is None and "split_values" in self.model_fields_set:
            raise ValueError("split_values: takes no effect without split_column")
        return self

    @property
    def timed(self) -> bool:
        """Whether times are times, and not only an order."""
        return self.time is not None and self.time_unit != "order"


class ColumnConfig(BaseModel):
    """One feature: the file's ``column`` (by default the one of the feature's name), and how its text is read."""

    model_config = FrozenConfig

    column: str | None = None
    type: Literal["text", "int", "float", "list"] = "text"
    separator: Annotated[str, Field(min_length=1)] = "|"

    @model_validator(mode="after")
    def _separator_takes_effect(self) -> ColumnConfig:
        if self.type != "list" and "separator" in self.model_fields_set:
            raise ValueError('separator: only for type "list"')
        return self


class FeaturesConfig(TableConfig):
    """Users or items: their id, and which columns become features. Without ``columns``, all do: as text from CSV, with
    their own types from Parquet. ``repeated``: which row of an id counts; without it, several that differ are an
    error."""

    id: str
    columns: Mapping[str, Annotated[ColumnConfig, BeforeValidator(_typed)]] = {}
    repeated: Annotated[Literal["first", "last"] | None, Field(exclude_if=_is_empty)] = None


class LabelsConfig(BaseModel):
    """Meaning of an interaction's value.

    threshold  a rating; liked if above the schema's ``liked_above``
    binary     0 or 1
    implicit   every row is a positive of value 1; ``negatives`` per positive are drawn from what the user had not
               interacted with, among items that had appeared by then; for a repeat, the first of them from what
               the user had interacted with
    """

    model_config = FrozenConfig

    kind: Literal["threshold", "binary", "implicit"] = "threshold"
    negatives: Annotated[int, Field(ge=1, le=100)] = 4
    drawn: Literal["popularity", "uniform"] = "popularity"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1

    @model_validator(mode="after")
    def _settings_take_effect(self) -> LabelsConfig:
        if self.kind != "implicit" and (idle := self.model_fields_set - {"kind"}):
            raise ValueError(f"{', '.join(sorted(idle))}: only for implicit labels")
        return self

    @property
    def draws_by_popularity(self) -> bool:
        """Whether negatives are drawn as often as items were interacted with. Popularity then tells them from positives
        no better than chance, by construction: a ranking by it says nothing of a model that is better."""
        return self.kind == "implicit" and self.drawn == "popularity"

    def contradictions(self, schema: FeatureSchema) -> list[str]:
        """Objections of the feature schema to this kind of label."""
        if self.kind == "threshold":
            return []
        bounds = (("value_min", schema.value_min, 0.0), ("value_max", schema.value_max, 1.0))
        against = [
            f"{self.kind} labels need {name} = {needed:g}, it is {bound:g}"
            for name, bound, needed in bounds
            if bound != needed
        ]
        if not 0 <= schema.liked_above < 1:
            against.append(f"{self.kind} labels need liked_above from 0 to below 1, it is {schema.liked_above:g}")
        return against


class DataConfig(BaseModel):
    """A data set. ``item_extra`` are further item columns, joined by item id, for any source.

    ``split_by`` says what makes the parts for training, validation and test (docs/data.md): time, the order of rows
    without times, or each user's last two interactions. A ``split_column`` takes its place. ``nobody`` lists ids that
    stand for nobody: interactions of such a user or item are left out of files and of the service's stream.
    """

    model_config = FrozenConfig

    source: Literal["movielens-100k", "movielens-1m", "files"]
    interactions: InteractionsConfig | None = None
    users: FeaturesConfig | None = None
    items: FeaturesConfig | None = None
    item_extra: tuple[FeaturesConfig, ...] = ()
    labels: LabelsConfig = LabelsConfig()
    texts: TextsConfig = TextsConfig()
    split_by: Annotated[Literal["time", "order", "leave_last_out"], Field(exclude_if=_is_time)] = "time"
    nobody: Annotated[tuple[str, ...], Field(exclude_if=_is_nobody_as_ever)] = NOBODY

    @property
    def timed(self) -> bool:
        """Whether interactions have times."""
        return self.interactions is None or self.interactions.timed

    @property
    def brings_parts(self) -> bool:
        """Whether the parts are not shares of all samples, but of the data."""
        return self.split_by == "leave_last_out" or self._split_column is not None

    @property
    def split_words(self) -> str:
        """How samples are split, as reports say it."""
        if self._split_column is not None:
            return f"by the column {self._split_column!r} of the data"
        return {
            "time": "by global time",
            "order": "by the order of the rows, there are no times",
            "leave_last_out": "by user: the last interaction tests, the one before validates",
        }[self.split_by]

    @property
    def _split_column(self) -> str | None:
        return None if self.interactions is None else self.interactions.split_column

    @model_validator(mode="after")
    def _split_is_possible(self) -> Self:
        if self._split_column is not None:
            if "split_by" in self.model_fields_set:
                raise ValueError("split_by: takes no effect beside interactions.split_column")
        elif self.split_by == "time" and not self.timed:
            raise ValueError(
                'without times there is no split by time: set split_by = "order" or "leave_last_out", or '
                "interactions.split_column"
            )
        elif self.split_by == "order" and self.timed:
            raise ValueError('split_by = "order" is for interactions without times: remove it, and time splits them')
        return self

    @model_validator(mode="after")
    def _is_consistent(self) -> DataConfig:
        if self.source == "files":
            if self.interactions is None or self.items is None:
                raise ValueError('source "files" needs the tables interactions and items')
            if (self.interactions.value is None) != (self.labels.kind == "implicit"):
                raise ValueError(
                    f"{self.labels.kind} labels "
                    + ("take no value column" if self.labels.kind == "implicit" else "need interactions.value")
                )
        elif self.interactions or self.users or self.items or self.labels.kind != "threshold":
            raise ValueError(f"source {self.source!r} brings its own interactions, users, items and labels")
        if (columns := self.item_columns()) is not None:
            self.texts.check_columns(columns)
        return self

    def item_columns(self) -> set[str] | None:
        """All item columns, or None if only the files can tell."""
        tables = [table for table in (self.items, *self.item_extra) if table is not None]
        if any(not table.columns for table in tables):
            return None
        columns = set() if self.source == "files" else set(MOVIELENS_COLUMNS)
        return columns.union(*(table.columns for table in tables))
