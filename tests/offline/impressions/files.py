"""Files of impressions in the forms in which they come, all of the same requests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from tests.offline.proposal.shops import FIRST_SECOND


@dataclass(frozen=True)
class Shown:
    """A request: user, unix seconds, items in the order shown, and the places of the clicked ones."""

    user: str
    second: int
    items: tuple[str, ...]
    clicked: tuple[int, ...]

    @property
    def labels(self) -> list[int]:
        return [int(place in self.clicked) for place in range(len(self.items))]

    @property
    def when(self) -> str:
        return datetime.fromtimestamp(self.second, UTC).strftime("%Y-%m-%d %H:%M:%S")


def requests(count: int = 60, users: int = 20, items: int = 30, first: int = FIRST_SECOND) -> list[Shown]:
    """Requests in order of time, each an hour after the one before; one in six has no click."""
    draw = np.random.default_rng(5)
    shown = []
    for number in range(count):
        slate = tuple(f"i{item}" for item in draw.choice(items, 4 + number % 3, replace=False))
        clicked = () if number % 6 == 0 else tuple(sorted(draw.choice(4, 1 + number % 2, replace=False).tolist()))
        shown.append(Shown(f"u{draw.integers(users)}", first + number * 3600, slate, clicked))
    return shown
