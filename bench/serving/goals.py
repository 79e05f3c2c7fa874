"""The goals of speed, of requests and of the write path, as lines that say what was measured and whether that is
enough. Medians are judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.serving import deployed, memory, overload, scaling, sides, start, swaps, tails, workers
from bench.serving.installed import CANDIDATES
from bench.serving.results import Numbers, Result
from bench.serving.spread import markdown_table

QUALITY = Path("docs/quality.md")
"""Where the AUC of models on MovieLens-1M stands."""


@dataclass(frozen=True, slots=True)
class GoalResult:
    """A line. ``met`` is None for what was not measured."""

    number: str
    goal: str
    measured: str
    met: bool | None

    @property
    def verdict(self) -> str:
        return "not measured" if self.met is None else "met" if self.met else "**not met**"


def goal_results(results: Mapping[str, Result]) -> list[GoalResult]:
    """A line for every goal, of whose part there are results; one that says so where there are none."""
    lines: list[GoalResult] = []
    for part, (number, what, results_of) in _JUDGES.items():
        if part in results:
            lines += results_of(results[part].numbers)
        else:
            lines.append(GoalResult(number, what, "", None))
    return sorted(lines, key=lambda line: line.number)


def goals_table(results: Mapping[str, Result]) -> str:
    rows = [(line.number, line.goal, line.measured, line.verdict) for line in goal_results(results)]
    return markdown_table(("", "goal", "measured", ""), rows)


def goals_text(results: Mapping[str, Result]) -> str:
    """For a terminal."""
    return "\n".join(
        f"{line.number:3} {line.verdict.strip('*'):12} {line.goal}: {line.measured or '-'}"
        for line in goal_results(results)
    )


def _sides(numbers: Numbers) -> Iterator[GoalResult]:
    for kind, answered in (("top50", "50 answered"), ("all", "all answered")):
        for count, other, least in ((500, "bare", 0.75), (500, "plain FastAPI", 2.0), (100, "plain FastAPI", 2.0)):
            ratio = sides.ratios(numbers, f"{count} {kind}", "ours", other)
            name = "the bare `session.run` loop" if other == "bare" else other
            goal = f"{count} candidates, {answered}: at least {least:g} of {name}"
            yield GoalResult("1", goal, str(ratio), ratio.middle >= least)


def _deployed(numbers: Numbers) -> Iterator[GoalResult]:
    for name, label in deployed.NAMES.items():
        ratio = deployed.ratio(numbers, name)
        measured, met = f"{ratio:.1f}", ratio.middle >= 15
        if name == "din":  # of the other, no AUC is known
            ours, theirs = (auc_of(row, QUALITY.read_text()) for row in ("Lorank", "DIN (FuxiCTR)"))
            measured, met = f"{measured}, AUC {ours:.4f} against {theirs:.4f}", met and ours >= theirs
        yield GoalResult("2", f"at least 15 times the requests/s of {label}, 500 candidates", measured, met)


def auc_of(model: str, page: str) -> float:
    """The AUC of a model with frozen statistics in the table of docs/quality.md. ValueError if it has no such row."""
    for line in page.splitlines():
        cells = [cell.strip(" *") for cell in line.split("|")]
        if len(cells) > 5 and cells[1] == model and cells[3] == "frozen":
            return float(cells[5].partition(" ")[0])
    raise ValueError(f"{QUALITY} has no row of {model} with frozen statistics")


def _tails(numbers: Numbers) -> Iterator[GoalResult]:
    even, random = (tails.tail_ratio(numbers, CANDIDATES, spacing) for spacing in ("constant", "poisson"))
    goal = "p99 at most 3 times p50 at 60 % of the peak, open loop, 500 candidates"
    yield GoalResult("3", goal, f"{even:.1f}; with random arrivals {random:.1f}", even.middle <= 3)
    many = numbers["many"]
    goal = "100,000 requests without an error"
    measured = f"{many['failed']:,} of {many['requests']:,} failed"
    yield GoalResult("3", goal, measured, many["failed"] == 0 and many["requests"] >= 100_000)


def _overload(numbers: Numbers) -> Iterator[GoalResult]:
    wait, answered = (overload.ratio(numbers, *names) for names in (("flood_p99", "calm_p99"), ("goodput", "capacity")))
    goal = "three times the capacity: p99 of what is answered at most 2 times that of half the capacity"
    yield GoalResult("9", goal, str(wait), wait.middle <= 2)
    yield GoalResult("9", "and at least 90 % of the capacity is answered", str(answered), answered.middle >= 0.9)
    failed = sum(run["probes_failed"] for run in numbers["rounds"])
    slowest = max(run["recovery_seconds"] for run in numbers["rounds"])
    measured = f"{failed} probes failed, {slowest:.1f} s"
    yield GoalResult("9", "and probes are answered, and it recovers in 2 s", measured, not failed and slowest <= 2)


def _scaling(numbers: Numbers) -> Iterator[GoalResult]:
    line, ratio = scaling.line(numbers), scaling.history_ratio(numbers)
    measured = f"{line.fixed:.3f} ms ({line.low:.3f} to {line.high:.3f}), R² {line.fit:.4f}"
    yield GoalResult("4", "cost linear in candidates, fixed part under 0.4 ms", measured, line.fixed < 0.4)
    yield GoalResult("4", "10,000 events cost at most 1.2 times 50", str(ratio), ratio.middle <= 1.2)


def _workers(numbers: Numbers) -> Iterator[GoalResult]:
    gain, growth = workers.gain(numbers), workers.growth(numbers)
    yield GoalResult("5", "two workers give at least 1.8 times one, a core for each", str(gain), gain.middle >= 1.8)
    goal = f"a further worker adds less than 15 % of memory, {numbers['items']:,} items"
    yield GoalResult("5", goal, f"{growth:.1%}", growth < 0.15)


def _start(numbers: Numbers) -> Iterator[GoalResult]:
    first, again = (start.ready_seconds(numbers, kind) for kind in ("first", "again"))
    goal = f"ready in under 10 s with {numbers['items']:,} items in {numbers['spaces']} spaces"
    yield GoalResult("6", goal, f"{first:.1f} s; restarted {again:.1f} s", first.middle < 10)


def _swaps(numbers: Numbers) -> Iterator[GoalResult]:
    goal = "a release swap adds less than 5 ms to p99 and fails nothing"
    for case in swaps.CORES:
        failed = swaps.failed(numbers, case)
        new, back = (swaps.added(numbers, case, kind) for kind in swaps.SWAPS)
        measured = f"{new:+.1f} ms to a new release, {back:+.1f} ms back; {failed:,} failed"
        most = max(new.middle, back.middle)
        yield GoalResult("6", f"{goal}, on {case}", measured, most < 5 and failed == 0)


def _memory(numbers: Numbers) -> Iterator[GoalResult]:
    kind, rate = memory.slowest(numbers)
    goal = "publish at least 100,000 records/s on one core"
    yield GoalResult("w", goal, f"slowest: {kind}, {rate:,}/s", rate >= 100_000)
    touched = max(runs["one percent"]["written"] / numbers["records"] for runs in numbers["kinds"].values())
    yield GoalResult("w", "1 % changed users touch 1 % of the keys", f"{touched:.2%} at most", touched <= 0.0105)


_JUDGES: dict[str, tuple[str, str, Callable[[Numbers], Iterator[GoalResult]]]] = {
    "sides": ("1", "beside the bare model and plain FastAPI", _sides),
    "deployed": ("2", "beside the DIN that people deploy", _deployed),
    "tails": ("3", "tails and errors", _tails),
    "scaling": ("4", "cost by candidates and events", _scaling),
    "workers": ("5", "more workers", _workers),
    "start": ("6", "start", _start),
    "swaps": ("6", "release swaps", _swaps),
    "overload": ("9", "more than can be answered", _overload),
    "memory": ("w", "write path", _memory),
}
