"""The six goals of speed, and those of the write path, as lines that say what was measured and whether that is
enough. Medians are judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.serving import deployed, memory, scaling, sides, start, swaps, tails, workers
from bench.serving.results import Result
from bench.serving.spread import table

QUALITY = Path("docs/quality.md")
"""Where the AUC of models on MovieLens-1M stands."""

Found = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Judged:
    """One line. ``met`` is None for what was not measured."""

    number: str
    goal: str
    measured: str
    met: bool | None

    @property
    def verdict(self) -> str:
        return "not measured" if self.met is None else "met" if self.met else "**not met**"


def judged(found: Mapping[str, Result]) -> list[Judged]:
    """A line for every goal, of whose part there are results; one that says so where there are none."""
    lines: list[Judged] = []
    for part, (number, what, judge) in _JUDGES.items():
        if part in found:
            lines += judge(found[part].found)
        else:
            lines.append(Judged(number, what, "", None))
    return sorted(lines, key=lambda line: line.number)


def markdown(found: Mapping[str, Result]) -> str:
    rows = [(one.number, one.goal, one.measured, one.verdict) for one in judged(found)]
    return table(("", "goal", "measured", ""), rows)


def told(found: Mapping[str, Result]) -> str:
    """For a terminal."""
    return "\n".join(
        f"{one.number:3} {one.verdict.strip('*'):12} {one.goal}: {one.measured or '-'}" for one in judged(found)
    )


def _sides(found: Found) -> Iterator[Judged]:
    for kind, answered in (("top50", "50 answered"), ("all", "all answered")):
        for count, other, wanted in ((500, "bare", 0.75), (500, "plain FastAPI", 2.0), (100, "plain FastAPI", 2.0)):
            ratio = sides.ratios(found, f"{count} {kind}", "ours", other)
            name = "the bare `session.run` loop" if other == "bare" else other
            goal = f"{count} candidates, {answered}: at least {wanted:g} of {name}"
            yield Judged("1", goal, str(ratio), ratio.middle >= wanted)


def _deployed(found: Found) -> Iterator[Judged]:
    for name, label in deployed.NAMES.items():
        ratio = deployed.ratio(found, name)
        measured, met = f"{ratio:.1f}", ratio.middle >= 15
        if name == "din":  # of the other, no AUC is known
            ours, theirs = (auc_of(row, QUALITY.read_text()) for row in ("Lorank", "DIN (FuxiCTR)"))
            measured, met = f"{measured}, AUC {ours:.4f} against {theirs:.4f}", met and ours >= theirs
        yield Judged("2", f"at least 15 times the requests/s of {label}, 500 candidates", measured, met)


def auc_of(model: str, page: str) -> float:
    """The AUC of a model with frozen statistics in the table of docs/quality.md. ValueError if it has no such row."""
    for line in page.splitlines():
        cells = [cell.strip(" *") for cell in line.split("|")]
        if len(cells) > 5 and cells[1] == model and cells[3] == "frozen":
            return float(cells[5].partition(" ")[0])
    raise ValueError(f"{QUALITY} has no row of {model} with frozen statistics")


def _tails(found: Found) -> Iterator[Judged]:
    even, random = (tails.tail_ratio(found, tails.COUNT, spacing) for spacing in ("constant", "poisson"))
    goal = "p99 at most 3 times p50 at 60 % of the peak, open loop, 500 candidates"
    yield Judged("3", goal, f"{even:.1f}; with random arrivals {random:.1f}", even.middle <= 3)
    many = found["many"]
    goal = "100,000 requests without an error"
    measured = f"{many['failed']:,} of {many['requests']:,} failed"
    yield Judged("3", goal, measured, many["failed"] == 0 and many["requests"] >= 100_000)


def _scaling(found: Found) -> Iterator[Judged]:
    line, ratio = scaling.line(found), scaling.history_ratio(found)
    measured = f"{line.fixed:.3f} ms ({line.low:.3f} to {line.high:.3f}), R² {line.fit:.4f}"
    yield Judged("4", "cost linear in candidates, fixed part under 0.4 ms", measured, line.fixed < 0.4)
    yield Judged("4", "10,000 events cost at most 1.2 times 50", str(ratio), ratio.middle <= 1.2)


def _workers(found: Found) -> Iterator[Judged]:
    gain, growth = workers.gain(found), workers.growth(found)
    yield Judged("5", "two workers give at least 1.8 times one, a core for each", str(gain), gain.middle >= 1.8)
    goal = f"a further worker adds less than 15 % of memory, {found['items']:,} items"
    yield Judged("5", goal, f"{growth:.1%}", growth < 0.15)


def _start(found: Found) -> Iterator[Judged]:
    first, again = (start.ready_seconds(found, kind) for kind in ("first", "again"))
    goal = f"ready in under 10 s with {found['items']:,} items in {found['spaces']} spaces"
    yield Judged("6", goal, f"{first:.1f} s; restarted {again:.1f} s", first.middle < 10)


def _swaps(found: Found) -> Iterator[Judged]:
    goal = "a release swap adds less than 5 ms to p99 and fails nothing"
    for case in swaps.CORES:
        failed = swaps.failed(found, case)
        new, back = (swaps.added(found, case, kind) for kind in swaps.SWAPS)
        measured = f"{new:+.1f} ms to a new release, {back:+.1f} ms back; {failed:,} failed"
        yield Judged("6", f"{goal}, on {case}", measured, max(new, back) < 5 and failed == 0)


def _memory(found: Found) -> Iterator[Judged]:
    kind, rate = memory.slowest(found)
    goal = "publish at least 100,000 records/s on one core"
    yield Judged("w", goal, f"slowest: {kind}, {rate:,}/s", rate >= 100_000)
    touched = max(runs["one percent"]["written"] / found["records"] for runs in found["kinds"].values())
    yield Judged("w", "1 % changed users touch 1 % of the keys", f"{touched:.2%} at most", touched <= 0.0105)


_JUDGES: dict[str, tuple[str, str, Callable[[Found], Iterator[Judged]]]] = {
    "sides": ("1", "beside the bare model and plain FastAPI", _sides),
    "deployed": ("2", "beside the DIN that people deploy", _deployed),
    "tails": ("3", "tails and errors", _tails),
    "scaling": ("4", "cost by candidates and events", _scaling),
    "workers": ("5", "more workers", _workers),
    "start": ("6", "start", _start),
    "swaps": ("6", "release swaps", _swaps),
    "memory": ("w", "write path", _memory),
}
