"""A comparison of orders in words, and as a document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from offline.ab.offpolicy import Value
from offline.impressions.cautions import Acquaintance, Selection, day_of, weight_notes
from offline.impressions.comparison import AUC, FIRST, OrderComparison, OrderMeasure
from offline.impressions.reading import Impressions
from offline.metrics import in_words
from offline.training.bootstrap import Difference
from offline.training.slices import without_nan
from offline.training.validation import FEWEST_USERS

POSITION_BIAS = (
    "People click what they see first, so the shown order has credit for its own places, and the comparison favours "
    "it: a gain is rather larger than it looks here, and a loss may be none."
)


class Verdict(StrEnum):
    """What the log says."""

    GAIN = "gain"
    NONE = "no gain shown"
    LOSS = "loss"
    UNKNOWN = "too little to tell"


@dataclass(frozen=True, slots=True)
class ImpressionReport:
    """What a team would gain by a model, from its own impressions in the file ``path``."""

    path: Path
    model: str
    trained_until_ms: int
    impressions: Impressions
    selection: Selection
    acquaintance: Acquaintance
    comparison: OrderComparison

    def lines(self) -> Iterator[str]:
        """The report for the terminal; the last line says what would be gained and what to do."""
        both, known = self.comparison, self.acquaintance
        yield f"{self.path} is read so:"
        yield from (f"  {line}" for line in self.impressions.lines)
        yield from (f"  LOOK: {remark}" for remark in self.impressions.remarks)
        yield f"model {self.model}, trained until {day_of(self.trained_until_ms)}"
        yield (
            f"{both.requests:,} requests of {both.users:,} users show {both.items:,} items, {both.clicks:,} of them "
            f"clicked; {both.judged:,} requests of {both.judged_users:,} users have clicked and unclicked items"
        )
        yield (
            f"the log does not know {known.unknown_items:.1%} of the items shown and {known.unknown_users:.1%} of the "
            f"users; {known.without_history:.1%} of the requests come before anything else of their user"
        )
        yield from (f"  note: {note}" for note in self.notes())
        if both.measures:
            yield from ("", *measures_markdown(both.measures), "")
            moved = both.moved
            yield (
                f"of the clicked items the model puts {moved.up:,} higher, {moved.same:,} at the same place and "
                f"{moved.down:,} lower: {_moved(moved.places)}"
            )
        yield from _first_place(both.first_place)
        yield POSITION_BIAS
        yield self.sentence()

    def notes(self) -> Iterator[str]:
        """What was left out, and what weakens the comparison."""
        yield from self.selection.notes(self.trained_until_ms)
        yield from self.acquaintance.notes()
        if self.comparison.first_place:
            yield from weight_notes(self.comparison.first_place[1])

    def verdict(self) -> Verdict:
        """What the log says, by the AUC within requests."""
        if not self.comparison.measures or not self.comparison.has_intervals:
            return Verdict.UNKNOWN
        gain = self.comparison.of(AUC).difference
        return Verdict.GAIN if gain.low > 0 else Verdict.LOSS if gain.high < 0 else Verdict.NONE

    def sentence(self) -> str:
        """What would be gained, and what to do."""
        verdict, both = self.verdict(), self.comparison
        if verdict is Verdict.UNKNOWN:
            return (
                f"There is too little to tell: {both.judged_users:,} users have requests with clicked and unclicked "
                f"items, and {FEWEST_USERS} are needed. Collect more impressions, of more users."
            )
        pairs, first = both.of(AUC), both.of(FIRST)
        more, low, high = (
            100 * bound for bound in (first.difference.middle, first.difference.low, first.difference.high)
        )
        numbers = (
            f"of the pairs of a clicked and an unclicked item it puts {pairs.model:.1%} in the right order, against "
            f"{pairs.shown:.1%} ({pairs.difference}), and of 100 such requests {more:+.1f} "
            f"[{low:+.1f}, {high:+.1f}] more have one in the first place"
        )
        if verdict is Verdict.GAIN:
            doubt = ", although not in the first place" if first.difference.high < 0 else ""
            return (
                f"You would gain by the model{doubt}: {numbers}. Next, let users say so: an A/B experiment, or its "
                "orders interleaved with yours (docs/ab.md)."
            )
        if verdict is Verdict.LOSS:
            return (
                f"The log does not show a gain: the shown order is ahead of the model; {numbers}. Its credit for its "
                "own places may explain that: log a share of requests in random order, or interleave both orders for "
                "a few users (docs/ab.md), before the model takes more."
            )
        return (
            f"The log does not show a gain: the interval of the difference reaches 0; {numbers}. More impressions "
            "narrow it; an interleaved experiment with few users (docs/ab.md) tells sooner."
        )

    def document(self) -> dict[str, Any]:
        """The same as JSON; null where something is not defined."""
        both = self.comparison
        counts = ("requests", "users", "items", "clicks", "judged", "judged_users")
        measures = {
            measure.name: without_nan({"shown": measure.shown, "model": measure.model}) | _bounds(measure.difference)
            for measure in both.measures
        }
        moved = {"up": both.moved.up, "same": both.moved.same, "down": both.moved.down}
        values = [asdict(value) for value in both.first_place]
        return {
            "file": str(self.path),
            "columns": list(self.impressions.lines),
            "remarks": [*self.impressions.remarks, *self.notes()],
            "model": self.model,
            "trained_until_ms": self.trained_until_ms,
            "selection": asdict(self.selection),
            "counts": {name: getattr(both, name) for name in counts},
            "shares": asdict(self.acquaintance),
            "measures": measures,
            "clicks_moved": moved | {"places": _bounds(both.moved.places)},
            "first_place": [{name: None if value != value else value for name, value in row.items()} for row in values],
            "verdict": str(self.verdict()),
            "sentence": self.sentence(),
        }


def measures_markdown(measures: tuple[OrderMeasure, ...]) -> list[str]:
    """Measures of both orders as the lines of a Markdown table."""
    lines = ["| | shown | model | difference [95 %] |", "|---|---|---|---|"]
    for measure in measures:
        values = f"{in_words(measure.shown)} | {in_words(measure.model)}"
        lines.append(f"| {measure.name} | {values} | {_difference(measure.difference)} |")
    return lines


def _difference(gain: Difference) -> str:
    return f"{gain.middle:+.4f}" if gain.low != gain.low else str(gain)


def _moved(places: Difference) -> str:
    interval = "" if places.low != places.low else f" [{places.low:+.2f}, {places.high:+.2f}]"
    return f"{places.middle:+.2f}{interval} places up on average"


def _first_place(values: tuple[Value, ...]) -> Iterator[str]:
    if not values:
        return
    yield f"clicks on the first place, from {values[0].rows:,} requests with propensities [95 %]:"
    words = {"on-policy": "as shown", "IPS": "model, IPS", "SNIPS": "model, self-normalised IPS"}
    for value in values:
        sample = "" if value is values[0] else f", worth {value.effective_rows:,.0f} requests"
        yield f"  {words[value.estimator]}: {value.value:.4f} [{value.low:.4f}, {value.high:.4f}]{sample}"


def _bounds(gain: Difference) -> dict[str, float | None]:
    return without_nan({"difference": gain.middle, "low": gain.low, "high": gain.high})
