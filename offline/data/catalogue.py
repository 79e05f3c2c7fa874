"""Raw users and items: what is known of them beside their interactions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class DataError(ValueError):
    """Input data is missing, damaged, too little, or contradicts itself."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Raw features by user id and by item id. The order of the ids is the tie-break of simultaneous events."""

    users: Mapping[str, Mapping[str, Any]]
    items: Mapping[str, Mapping[str, Any]]
