"""Rows of docs/reliability.md: a trouble, the goal that is set for it, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from tests.chaos.stand import Stand


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
    ``failed``, ``refused``, ``unsaid``, ``lost`` and ``probes_failed`` are counts; None: any number."""

    words: frozenset[str] = frozenset()
    failed: int = 0
    refused: int | None = 0
    unsaid: int | None = 0
    lost: int | None = 0
    probes_failed: int = 0

    def missed_by(self, outcome: Outcome) -> list[str]:
        """In words, what of the outcome is beyond the goal; empty if nothing is."""
        beyond = [
            f"{count:,} {name}"
            for name, count, most in (
                ("wrong", outcome.wrong, 0),
                ("failed", outcome.failed, self.failed),
                ("refused", outcome.refused, self.refused),
                ("without a word", outcome.unsaid, self.unsaid),
                ("lost", outcome.lost, self.lost),
                ("probes failed", outcome.probes_failed, self.probes_failed),
                ("tests failed", outcome.tests_failed, 0),
            )
            if most is not None and count > most
        ]
        return [*beyond, *outcome.missed] + [word for word in outcome.degraded if word not in self.words]


@dataclass(frozen=True, slots=True)
class Row:
    """A trouble of a ``part`` of the house. ``make`` makes it on a stand of its own and says what came of it.
    ``short`` rows run in .ci/run, too. ``floor``: why the goal may not be met, if it need not be."""

    name: str
    part: str
    trouble: str
    goal: Goal
    make: Callable[[Stand], Outcome]
    short: bool = False
    floor: str = ""


ROWS: dict[str, Row] = {}
"""By name, in the order of the page."""


def row(
    part: str, trouble: str, goal: Goal | None = None, *, short: bool = False, floor: str = ""
) -> Callable[[Callable[[Stand], Outcome]], Callable[[Stand], Outcome]]:
    """Registers a function as the row of its name."""

    def register(make: Callable[[Stand], Outcome]) -> Callable[[Stand], Outcome]:
        name = make.__name__
        assert name not in ROWS, f"two rows are called {name}"
        ROWS[name] = Row(name, part, trouble, goal or Goal(), make, short, floor)
        return make

    return register
