"""Users and items as files describe them: feature tables by id, and further item columns joined to a catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from models.contract.profile import UserProfile
from offline.data.catalogue import Catalogue
from offline.data.columns import feature, ids
from offline.data.config import ColumnConfig, FeaturesConfig
from offline.data.rules import Place, Problems
from offline.data.tables import Part, read


@dataclass(slots=True)
class Descriptions:
    """Features by id in order of appearance, where each id stands, and the features' names."""

    features: dict[str, dict[str, Any]] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    columns: set[str] = field(default_factory=set)


def described(config: FeaturesConfig, problems: Problems) -> Descriptions:
    """What the table's files say. An id that is described twice keeps its first description."""
    found = Descriptions()
    for part in read(config, problems):
        keys = part.cells(config.id, problems)
        columns = _features(part, config, problems)
        found.columns.update(columns)
        if keys is not None:
            _take(found, part.file, config.id, part.rows.to_list(), ids(keys, problems).to_list(), columns, problems)
    return found


def _features(part: Part, config: FeaturesConfig, problems: Problems) -> dict[str, list[Any]]:
    wanted: dict[str, ColumnConfig | None] = dict(config.columns) or {
        name: None for name in part.frame.columns if name != config.id
    }
    found = {}
    for name, column in wanted.items():
        cells = part.cells((column.column if column is not None else None) or name, problems)
        if cells is not None:
            found[name] = feature(cells, column, problems)
    return found


def _take(
    found: Descriptions,
    file: str,
    id_column: str,
    rows: Sequence[int],
    keys: Sequence[str | None],
    columns: dict[str, list[Any]],
    problems: Problems,
) -> None:
    names = list(columns)
    for at, (row, key) in enumerate(zip(rows, keys, strict=True)):
        if key is None:
            continue
        features = {name: columns[name][at] for name in names}
        place = Place(file, row, id_column, key)
        if key not in found.features:
            found.features[key] = features
            found.places[key] = place
        elif found.features[key] == features:
            problems.add("row_repeated", place)
        else:
            problems.add("id_repeated", found.places[key], place)


def check_profiles(found: Descriptions, problems: Problems) -> None:
    """A user's features travel in profile records; one value of each column tells whether they fit."""
    for name in sorted(found.columns):
        examples = (key for key, features in found.features.items() if features.get(name) is not None)
        key = next(examples, None)
        if key is None:
            continue
        value = found.features[key][name]
        try:
            UserProfile.model_validate({"owner": key, "features": {name: value}})
        except ValueError:
            place = found.places[key]
            problems.add("profile", Place(place.file, place.row, name, value))


def joined(catalogue: Catalogue, tables: Sequence[FeaturesConfig], columns: set[str], problems: Problems) -> Catalogue:
    """The catalogue with further columns of its items. ``columns`` are the names held so far; new ones are added."""
    items = {item: dict(features) for item, features in catalogue.items.items()}
    for table in tables:
        extra = described(table, problems)
        for name in sorted(columns & extra.columns):
            problems.add("column_repeated", Place(", ".join(table.paths), None, name))
        columns |= extra.columns
        for item, features in extra.features.items():
            if item in items:
                items[item] |= features
            else:
                problems.add("extra_unknown", extra.places[item])
    return Catalogue(catalogue.users, items)
