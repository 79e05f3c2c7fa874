"""Checks on a data set before anything is computed from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from models.contract.schema import FeatureSchema
from offline.data.catalogue import Catalogue, DataError

Row = tuple[str, str, float, int]


@dataclass(slots=True)
class Findings:
    """``errors`` make the data unusable; ``warnings`` are worth a look; ``facts`` describe it."""

    facts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def raise_if_broken(self) -> None:
        if self.errors:
            raise DataError("the data cannot be used: " + "; ".join(self.errors))


def validate(schema: FeatureSchema, catalogue: Catalogue, rows: Sequence[Row]) -> Findings:
    """Findings on ids, values, times, duplicates, and on raw features that the schema does not know."""
    found = Findings()
    if not rows:
        found.errors.append("there are no interactions")
        return found
    users, items = Counter(row[0] for row in rows), Counter(row[1] for row in rows)
    times = [row[3] for row in rows]
    liked = sum(row[2] > schema.liked_above for row in rows)
    found.facts += [
        f"{len(rows)} interactions of {len(users)} users with {len(items)} items",
        f"{liked / len(rows):.1%} above {schema.liked_above:g}",
        f"interactions per user: median {sorted(users.values())[len(users) // 2]}, most {max(users.values())}",
    ]
    if any(value != value or abs(value) == float("inf") for _, _, value, _ in rows):
        found.errors.append("some values are not finite")
    if min(times) < 0:
        found.errors.append("some times are negative")
    overlong = [one for one in (*users, *items) if not 1 <= len(one.encode()) <= 256]
    if overlong:
        found.errors.append(f"{len(overlong)} ids are empty or longer than 256 bytes")
    repeated = len(rows) - len(set(rows))
    if repeated:
        found.warnings.append(f"{repeated} interactions are exact repetitions")
    for kind, held, described in (("users", users, catalogue.users), ("items", items, catalogue.items)):
        unknown = sum(one not in described for one in held)
        if unknown:
            found.warnings.append(f"{unknown} {kind} have interactions but no description")
    _unknown_values(schema, catalogue, found)
    return found


def _unknown_values(schema: FeatureSchema, catalogue: Catalogue, found: Findings) -> None:
    for kind, fields, described in (
        ("user", schema.user_fields, catalogue.users),
        ("item", schema.item_fields, catalogue.items),
    ):
        for spec in fields:
            empty = sum(not any(spec.encode(features.get(spec.name))) for features in described.values())
            if empty == len(described):
                found.errors.append(f"no {kind} has a value that field {spec.name!r} understands")
            elif empty:
                found.warnings.append(f"{empty} {kind}s without a value that field {spec.name!r} understands")
