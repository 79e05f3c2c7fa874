"""What came back for a list of prompts, one per prompt: an answer, the reason for its absence, or a refusal."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from offline.llm.protocol import Completion

UNTRIED = "not tried"
BUDGET = "budget"
DRY_RUN = "dry run"


@dataclass(frozen=True, slots=True)
class Answers:
    """``completions`` in the order of the prompts, None where there is no answer yet; ``absent`` says why, by position.

    ``stopped`` is what ended the asking early (a server that is down, a refused key, the budget), if anything did. The
    next run asks for what is absent. What is ``refused``, by position, has no answer and is asked no more.
    """

    completions: tuple[Completion | None, ...]
    absent: Mapping[int, str] = field(default_factory=dict)
    stopped: str | None = None
    refused: frozenset[int] = frozenset()

    @property
    def texts(self) -> list[str | None]:
        """The answers as they came, None where absent."""
        return [None if completion is None else completion.text for completion in self.completions]

    @property
    def complete(self) -> bool:
        """Whether every prompt has its answer."""
        return not self.absent and not self.refused
