"""Prompts of a job, the answers to them, and the one seam every back end implements.

Knows no server, no weights, no cache.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

ROLES = ("system", "user", "assistant")

UNTRIED = "not tried"
BUDGET = "budget"
DRY_RUN = "dry run"

Parameters = tuple[int, float, float, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question to a language model; two equal prompts are one question and are paid once.

    `messages` are (role, text) pairs, `max_tokens` bounds the answer in tokens. With `choices`, which need `max_tokens`
    1, nothing is generated: the answer is how probable each of them is as the next token (choices.py). `carries` are
    the fields of users and items in the messages (models/contract/leaving.py), None if nobody says; `owner` is the mark
    of the user whom it is about (offline/store.py), "" of anything else: they are no part of the question. Raises
    ValueError for a prompt that no back end could serve, so that a bad record is found before anything is paid.
    """

    messages: tuple[tuple[str, str], ...]
    max_tokens: int
    temperature: float = 0.0
    repetition_penalty: float = 1.0
    # repr is a part of fingerprints of spaces (offline/knowledge/inputs.py)
    carries: frozenset[str] | None = field(default=None, compare=False, repr=False)
    owner: str = field(default="", compare=False, repr=False)
    choices: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not self.messages:
            raise ValueError("a prompt needs at least one message")
        for role, text in self.messages:
            if role not in ROLES:
                raise ValueError(f"unknown role {role!r}, expected one of {ROLES}")
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"a {role} message is not valid text: {error}") from error
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens}")
        if not 0.0 <= self.temperature <= 2.0:
            raise ValueError(f"temperature must lie in [0, 2], not {self.temperature}")
        if not 0.0 < self.repetition_penalty <= 10.0:
            raise ValueError(f"repetition_penalty must lie in (0, 10], not {self.repetition_penalty}")
        if self.choices and (len(set(self.choices)) < max(2, len(self.choices)) or "" in self.choices):
            raise ValueError(f"choices must be two or more different texts, not {self.choices}")
        if self.choices and (self.max_tokens, self.temperature, self.repetition_penalty) != (1, 0.0, 1.0):
            raise ValueError("a prompt with choices has max_tokens 1, temperature 0 and no repetition_penalty")

    @property
    def characters(self) -> int:
        """Length of all messages together, by which prompts are put in order."""
        return sum(len(text) for _, text in self.messages)

    @property
    def size(self) -> int:
        """Length of all messages together in bytes of UTF-8, the cheap stand-in for the number of prompt tokens: models
        cut English into tokens of about four bytes, and Chinese into tokens of about three (one character) or four."""
        return sum(len(text.encode()) for _, text in self.messages)

    @property
    def parameters(self) -> Parameters:
        """Everything but the messages, which prompts of one batch have in common."""
        return self.max_tokens, self.temperature, self.repetition_penalty, self.choices


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer: its text, and what it cost in tokens (the closing token counts, as servers bill it)."""

    text: str
    prompt_tokens: int
    completion_tokens: int


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


class TransientError(Exception):
    """The same call may succeed later. `retry_after` is the server's wish in seconds, if it gave one."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermanentError(Exception):
    """The prompts of a call will never be answered; other prompts may be."""


class MayNotLeaveError(PermanentError):
    """Prompts carry fields that the configuration does not let out to their server. Raised before any of them is
    sent."""


class UnusableBackendError(PermanentError):
    """No prompt will be answered (wrong key, unknown model, missing weights): the run stops instead of trying all."""


class Backend(Protocol):
    """A language model behind an asynchronous call."""

    @property
    def model_id(self) -> str:
        """Names the weights by their content; part of every cache key, so another model has another one."""

    @property
    def batch_size(self) -> int:
        """How many prompts one call takes at most."""

    async def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """Answer the prompts in order. Raises TransientError or PermanentError for the call as a whole."""

    async def close(self) -> None:
        """Give back connections or memory; the back end may not be used afterwards."""
