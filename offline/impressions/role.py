"""Roles of the columns of impressions, the ids that the log knows, and the error of a role that no column fits."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import polars as pl

from offline.data.catalogue import DataError


class Role(StrEnum):
    """Roles of columns; each is also the name of the option that names its column."""

    USER = "user"
    ITEM = "item"
    TIME = "time"
    POSITION = "position"
    CLICK = "click"
    PROPENSITY = "propensity"
    REQUEST = "request"


_HOLDS = {
    Role.USER: "users",
    Role.ITEM: "items that were shown",
    Role.TIME: "the time of each impression",
    Role.CLICK: "what was clicked",
}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Ids of users and of items that the log knows."""

    users: pl.Series
    items: pl.Series


def role_error(table: pl.DataFrame, role: Role, why: str = "") -> DataError:
    """The error of a role that no column fits, or several do; ``why`` goes into the sentence."""
    columns = ", ".join(map(repr, table.columns))
    return DataError(
        f"no column is recognised as that of {_HOLDS[role]}{why}; columns are {columns}: name it, --{role}"
    )
