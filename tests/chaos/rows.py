"""Rows of docs/reliability.md: a trouble, the goal that is set for it, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from tests.chaos.stand import Stand

PROBE_SECONDS = 2.0
"""The slowest probe, where a row does not name another bound: what an orchestrator waits for at least."""

UNHINDERED = 10.0
"""The p99 of those whom a trouble is none of, as a multiple of calm: neighbours on the machine make it five."""

NOISE_MS = 30.0
"""A p99 below it is as before, whatever it is a multiple of: so much a neighbour on the machine takes."""


class Outcome(BaseModel):
    """What callers saw from the beginning of a trouble until the service was as before.

    ``requests``          ranking requests, and of them
    ``refused``           those that were told to come again later (429, 503 with Retry-After)
    ``failed``            those without an answer, or with an error
    ``wrong``             those whose scores are not of what is stored of their user, or less with a word of it
    ``unsaid``            those whose scores are of less than what is stored, without a word of it
    ``degraded``          the words that answers had, most frequent first
    ``calm_p99_ms``, ``trouble_p99_ms``   of answers before and during the trouble, None where it is not measured
    ``recovery_seconds``  from the end of the trouble to the last answer that was not as before
    ``probes_failed``     looks at /healthz without an answer
    ``probe_seconds``     of the slowest of them, answered or not, None where nobody looked
    ``accepted``, ``lost``  interactions that were accepted, and of them those that are not stored in the end
    ``tests``             tests that say so, where a row is proved by tests instead
    ``missed``            goals that these numbers do not show and that are missed, in words
    ``done``              False where this machine does not let the trouble be made; ``remark`` says why
    ``remark``            whatever else there is to say
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests: int = 0
    refused: int = 0
    failed: int = 0
    wrong: int = 0
    unsaid: int = 0
    degraded: tuple[str, ...] = ()
    calm_p99_ms: float | None = None
    trouble_p99_ms: float | None = None
    recovery_seconds: float | None = None
    probes_failed: int = 0
    probe_seconds: float | None = None
    accepted: int = 0
    lost: int = 0
    tests: int = 0
    tests_failed: int = 0
    missed: tuple[str, ...] = ()
    done: bool = True
    remark: str = ""

    @property
    def added(self) -> float | None:
        """The p99 during the trouble over that before."""
        if self.calm_p99_ms is None or self.trouble_p99_ms is None:
            return None
        return self.trouble_p99_ms / self.calm_p99_ms


@dataclass(frozen=True, slots=True)
class Goal:
    """The most that may come of a trouble. Nothing may ever be ``wrong``. ``words``: those that answers may have.
    ``failed``, ``refused``, ``unsaid``, ``lost`` and ``probes_failed`` are counts; None: any number.
    ``probe_seconds`` bounds the slowest look at /healthz. ``added`` bounds the p99 during the trouble, as a multiple of
    that before, and ``recovery_seconds`` the time until all is as before; None: no bound. A bound of a number that was
    not measured is missed, but for probes, which rows that are proved by tests have none of."""

    words: frozenset[str] = frozenset()
    failed: int = 0
    refused: int | None = 0
    unsaid: int | None = 0
    lost: int | None = 0
    probes_failed: int = 0
    probe_seconds: float = PROBE_SECONDS
    added: float | None = None
    recovery_seconds: float | None = None

    def misses(self, outcome: Outcome) -> list[tuple[str, str]]:
        """(name of a goal, what of the outcome is beyond it in words) of each goal that is missed. The names are those
        of fields, or "wrong", "tests_failed", and "missed" of what the row itself says."""
        beyond = [
            (name, f"{count:,} {words}")
            for name, words, count, most in (
                ("wrong", "wrong", outcome.wrong, 0),
                ("failed", "failed", outcome.failed, self.failed),
                ("refused", "refused", outcome.refused, self.refused),
                ("unsaid", "without a word", outcome.unsaid, self.unsaid),
                ("lost", "lost", outcome.lost, self.lost),
                ("probes_failed", "probes failed", outcome.probes_failed, self.probes_failed),
                ("tests_failed", "tests failed", outcome.tests_failed, 0),
            )
            if most is not None and count > most
        ]
        beyond += [("missed", words) for words in outcome.missed]
        beyond += [("words", word) for word in outcome.degraded if word not in self.words]
        if outcome.probe_seconds is not None and outcome.probe_seconds > self.probe_seconds:
            beyond.append(
                ("probe_seconds", f"a probe took {outcome.probe_seconds:.1f} s, goal {self.probe_seconds:g} s")
            )
        return [*beyond, *self._late(outcome)]

    def _late(self, outcome: Outcome) -> list[tuple[str, str]]:
        beyond = []
        if self.added is not None and outcome.added is None:
            beyond.append(("added", "no p99 before and during the trouble"))
        elif self.added is not None and outcome.added > self.added and outcome.trouble_p99_ms > NOISE_MS:  # type: ignore[operator]
            beyond.append(("added", f"p99 {outcome.added:.1f} times that of calm, goal {self.added:g}"))
        if self.recovery_seconds is not None:
            if outcome.recovery_seconds is None:
                beyond.append(("recovery_seconds", "no recovery was measured"))
            elif outcome.recovery_seconds > self.recovery_seconds:
                back = f"back after {outcome.recovery_seconds:.1f} s, goal {self.recovery_seconds:g} s"
                beyond.append(("recovery_seconds", back))
        return beyond

    def missed_by(self, outcome: Outcome) -> list[str]:
        """``misses`` in words alone."""
        return [words for _, words in self.misses(outcome)]


@dataclass(frozen=True, slots=True)
class Row:
    """A trouble of a ``part`` of the house. ``make`` makes it on a stand of its own and says what came of it.
    ``short`` rows run in .ci/run, too. ``floor``: why no more can be asked, and ``excuses`` the goals that need not be
    met for it, by the names of ``Goal.misses``; all others need."""

    name: str
    part: str
    trouble: str
    goal: Goal
    make: Callable[[Stand], Outcome]
    short: bool = False
    floor: str = ""
    excuses: frozenset[str] = frozenset()

    def fails(self, outcome: Outcome) -> bool:
        """Whether a goal is missed that the floor does not excuse."""
        return any(name not in self.excuses for name, _ in self.goal.misses(outcome))


ROWS: dict[str, Row] = {}
"""By name, in the order of the page."""


def row(
    part: str,
    trouble: str,
    goal: Goal | None = None,
    *,
    short: bool = False,
    floor: str = "",
    excuses: frozenset[str] = frozenset(),
) -> Callable[[Callable[[Stand], Outcome]], Callable[[Stand], Outcome]]:
    """Registers a function as the row of its name."""

    def register(make: Callable[[Stand], Outcome]) -> Callable[[Stand], Outcome]:
        name = make.__name__
        assert name not in ROWS, f"two rows are called {name}"
        ROWS[name] = Row(name, part, trouble, goal or Goal(), make, short, floor, excuses)
        return make

    return register
