"""Users and items as files describe them: feature tables by id, and further item columns joined to a catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models.contract.profile import UserProfile
from offline.data.catalogue import Catalogue
from offline.data.columns import feature, ids
from offline.data.config import ColumnConfig, FeaturesConfig
from offline.data.rules import Place, Problems
from offline.data.tables import Part, read


class Descriptions:
    """Features by id in order of appearance, where each id stands, and the features' names. An id that is described
    twice keeps its first description."""

    def __init__(self) -> None:
        self.features: dict[str, dict[str, Any]] = {}
        self.columns: set[str] = set()
        self.places: dict[str, Place] = {}

    @classmethod
    def of(cls, config: FeaturesConfig, problems: Problems) -> Descriptions:
        """What a table's files say."""
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


def joined(catalogue: Catalogue, tables: Sequence[FeaturesConfig], columns: set[str], problems: Problems) -> Catalogue:
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
