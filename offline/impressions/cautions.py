"""What was left out of a comparison of orders, and what weakens it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from offline.ab.offpolicy import Value

_MANY_UNKNOWN = 0.2
_MOST_SEEN, _MANY_SEEN, _SEEN_TIMES = 0.5, 0.1, 3.0
"""Share of clicked items that their user met on the day before, from which on times are doubted; and a smaller one, if
it is so many times that of the others."""
_ODD_WEIGHT = 0.2
"""Distance of the mean importance weight from 1 from which on propensities are doubted."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Requests of the file, and those that are not compared: before the log begins, of the training period (``trained``
    of them, ``with_trained`` if they are compared all the same), and beyond as many as are ``undrawn``. ``late`` ones,
    after the last event of the log, are compared."""

    requests: int
    early: int
    trained: int
    undrawn: int
    late: int
    with_trained: bool

    def notes(self, trained_until_ms: int) -> Iterator[str]:
        """What was left out, and why."""
        if self.early:
            yield f"{self.early:,} of {self.requests:,} requests are left out: they come before the log begins"
        if self.trained:
            fate = "compared all the same" if self.with_trained else "left out; --with-trained takes them"
            yield (
                f"{self.trained:,} of {self.requests:,} requests come before the end of training "
                f"({day_of(trained_until_ms)}), so that the model has learned from what came of them: they are {fate}"
            )
        if self.undrawn:
            yield f"{self.undrawn:,} requests are left out, of users drawn by chance; --most-requests takes more"
        if self.late:
            yield (
                f"{self.late:,} requests come after the last event of the log, so that histories may lack events: "
                "`refresh` first"
            )


@dataclass(frozen=True, slots=True)
class Acquaintance:
    """Shares: of shown items and of users that the log does not know, of requests before which a user did nothing; and
    of clicked and of unclicked items that are in an event of their user of the day before."""

    unknown_items: float
    unknown_users: float
    without_history: float
    clicked_lately: float
    unclicked_lately: float

    def notes(self) -> Iterator[str]:
        """What the model cannot know, and what it may know too early."""
        if self.unknown_items > _MANY_UNKNOWN:
            yield f"{self.unknown_items:.1%} of the items are unknown, and the model tells them apart by nothing"
        if self.clicked_lately > min(_MOST_SEEN, max(_MANY_SEEN, _SEEN_TIMES * self.unclicked_lately)):
            yield (
                f"{self.clicked_lately:.0%} of the clicked items are in an event of their user of the day before, and "
                f"{self.unclicked_lately:.0%} of the others: unless people come back to them so soon, the times of "
                "this file are behind those of the log (another time zone?), and the model is shown what it is asked"
            )


def weight_notes(value: Value) -> Iterator[str]:
    """A line where propensities are not those of the first place, by a value that is weighted by them."""
    if abs(value.mean_weight - 1) > _ODD_WEIGHT:
        yield (
            f"weights by propensity average {value.mean_weight:.2f} and not 1: what was shown could not have had every "
            "item first, or they are not those of the first place"
        )


def day_of(time_ms: int) -> str:
    """The minute of unix milliseconds, in UTC."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
