"""The ``[data]`` part of a configuration: where interactions, users and items come from, and how texts speak of them.

Every model is frozen and refuses unknown keys and settings that could not take effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from models.contract.ids import NOBODY
from models.contract.schema import FeatureSchema, FrozenConfig
from offline.data.texts import TextsConfig

MOVIELENS_COLUMNS = ("title", "year", "genres")
"""Columns of the items of either MovieLens source."""


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _typed(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


def _is_nobody_as_ever(value: Any) -> bool:
    """Whether data that were read before there was such a list need not be read again."""
    return bool(value == NOBODY)


Names = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]


class TableConfig(BaseModel):
    """Files of one kind with the same columns. What a path ends in tells the format: .csv, .tsv, .txt, .dat, also
    with .gz, or .parquet. ``paths`` may hold ``*``; they are relative to the folder the job is started in.
    """

    model_config = FrozenConfig

    paths: Names
    separator: Annotated[str, Field(min_length=1, max_length=4)] = ","
    quote: Annotated[str, Field(max_length=1)] = '"'
    encoding: str = "utf-8"
    header: tuple[str, ...] = ()  # column names of text files whose first row is data already
    nulls: tuple[str, ...] = ("",)

    @model_validator(mode="after")
    def _text_format_is_possible(self) -> TableConfig:
        if len(self.separator) > 1 and self.quote:
            raise ValueError('a separator of several characters needs quote = ""')
        if self.separator == self.quote or set(self.separator) & set("\r\n\x00\x1f"):
            raise ValueError(f"{self.separator!r} cannot separate columns")
        try:
            "".encode(self.encoding)
        except LookupError as error:
            raise ValueError(f"there is no encoding {self.encoding!r}") from error
        if len(set(self.header)) != len(self.header):
            raise ValueError("header repeats a column name")
        return self


class InteractionsConfig(TableConfig):
    """Columns of the interactions. ``keep`` admits only rows whose column holds one of the given texts."""

    user: str
    item: str
    time: str
    time_unit: Literal["s", "ms", "iso"]
    value: str | None = None
    keep: Mapping[str, Names] = {}


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
    their own types from Parquet."""

    id: str
    columns: Mapping[str, Annotated[ColumnConfig, BeforeValidator(_typed)]] = {}


class LabelsConfig(BaseModel):
    """Meaning of an interaction's value.

    threshold  a rating; liked if above the schema's ``liked_above``
    binary     0 or 1
    implicit   every row is a positive of value 1; ``negatives`` per positive are drawn from what the user had not
               interacted with, among items that had appeared by then
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
    """A data set. ``item_extra`` are further item columns, joined by item id, for any source. ``nobody`` lists ids that
    stand for nobody: interactions of such a user or item are left out of files and of the service's stream."""

    model_config = FrozenConfig

    source: Literal["movielens-100k", "movielens-1m", "files"]
    interactions: InteractionsConfig | None = None
    users: FeaturesConfig | None = None
    items: FeaturesConfig | None = None
    item_extra: tuple[FeaturesConfig, ...] = ()
    labels: LabelsConfig = LabelsConfig()
    texts: TextsConfig = TextsConfig()
    nobody: Annotated[tuple[str, ...], Field(exclude_if=_is_nobody_as_ever)] = NOBODY

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
        if (columns := self._item_columns()) is not None:
            self.texts.check_columns(columns)
        return self

    def _item_columns(self) -> set[str] | None:
        """All item columns, or None if only the files can tell."""
        tables = [table for table in (self.items, *self.item_extra) if table is not None]
        if any(not table.columns for table in tables):
            return None
        columns = set() if self.source == "files" else set(MOVIELENS_COLUMNS)
        return columns.union(*(table.columns for table in tables))
