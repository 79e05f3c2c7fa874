"""The language model as the producers ask it: counted into the run, and bounded by ``--since``.

With ``--since``, texts of users and items with something new are asked for first. Everything else is answered from the
cache alone, so what was never asked about the others stays open, for a run without ``--since``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog
from offline.knowledge.interests import Answered, Ask, Interests
from offline.knowledge.liber.partitions import close_partitions
from offline.knowledge.quality import Usable, usable
from offline.knowledge.run import ORDER
from offline.knowledge.texts import item_prompt
from offline.llm.protocol import Prompt
from offline.llm.session import LLMSession, open_session
from offline.runs import Run
from offline.since import Recent
from offline.stages import Job

if TYPE_CHECKING:
    from offline.data.texts_import import UserText

TEXTS = {
    "text": (),
    "liber": ("summaries", "shifts"),
    "autograph": ("items", "summaries"),
    "marc": ("items", "summaries"),
}
"""Which texts each producer reads; whoever comes first has them asked."""


class Asking:
    """Asks through ``live`` and keeps the run's account."""

    def __init__(self, run: Run, live: LLMSession, given: Mapping[Prompt, str]) -> None:
        self._run = run
        self._live = live
        self._answering = live
        self._given = given
        self._again: Counter[str] = Counter()
        self._bad: Counter[str] = Counter()
        run.asked(live.ledger, {}, {})  # a run that is killed while it asks for hours is found by the session's id

    def __call__(self, prompts: list[Prompt], label: str) -> Answered:
        asked = [prompt for prompt in prompts if prompt not in self._given]
        answers = usable(self._answering, asked, f"  {label}")
        self._again.update(answers.found)
        self._bad.update(answers.left)
        self._run.asked(self._live.ledger, self._again, self._bad)
        imported = f", {len(prompts) - len(asked)} imported" if len(asked) < len(prompts) else ""
        print(f"  {label}: {answers.summary()}{imported}", flush=True)
        return with_given(prompts, self._given, answers)

    @property
    def model(self) -> str:
        return self._live.ledger.model_id

    @property
    def absent(self) -> int:
        """Texts whose call failed or did not fit into the budget."""
        return self._live.absent

    @property
    def why(self) -> str:
        return self._live.ledger.reason

    def ask_recent(self, texts: tuple[str, ...], recent: Recent, catalogue: Catalogue, log: InteractionLog) -> None:
        """Ask for these kinds of texts of recent users and items."""
        interests = texts_of_recent(self._run.job, recent, catalogue, log, self._ask_live)
        for kind in texts:
            getattr(interests["items" if kind == "items" else "partitions"], kind)

    @contextmanager
    def from_cache_alone(self) -> Iterator[None]:
        """Within, nothing is asked that was not answered before. What nobody has asked yet is left, and not absent."""
        job = self._run.job
        with open_session(job.config.llm, job.llm, self._run.name, dry_run=True) as closed:
            self._answering = closed
            try:
                yield
            finally:
                self._answering = self._live
                if left := closed.absent - self._live.absent:
                    print(f"  {left} texts of users and items without news are left for a run without --since")

    def _ask_live(self, prompts: list[Prompt], label: str) -> Answered:
        asked = [prompt for prompt in prompts if prompt not in self._given]
        answers = usable(self._live, asked, f"  {label}")
        self._run.asked(self._live.ledger, {}, {})
        return with_given(prompts, self._given, answers)


def with_given(prompts: Sequence[Prompt], given: Mapping[Prompt, str], answers: Usable) -> Answered:
    """All prompts' texts: those that were given, and between them, in order, those that were asked for."""
    said = iter(zip(answers.texts, answers.states, strict=True))
    both = [(given[prompt], "ok") if prompt in given else next(said) for prompt in prompts]
    return Answered([text for text, _ in both], [state == "absent" for _, state in both])


def given_texts(job: Job, catalogue: Catalogue) -> dict[Prompt, str]:
    """Imported texts of items, by what would be asked about them. Items that are told alike share the last one's."""
    if not job.imported.is_file():
        return {}
    from offline.data.texts_import import ImportedTexts  # polars only where files are read

    words, tokens = job.config.data.texts, job.config.knowledge.item_tokens
    return {
        item_prompt(words, catalogue.items[item], tokens): text
        for item, text in ImportedTexts.load(job.imported).items.items()
        if item in catalogue.items
    }


def imported_users(job: Job) -> tuple[UserText, ...]:
    """Imported texts of users."""
    if not job.imported.is_file():
        return ()
    from offline.data.texts_import import ImportedTexts  # polars only where files are read

    return ImportedTexts.load(job.imported).users


def texts_of_recent(
    job: Job, recent: Recent, catalogue: Catalogue, log: InteractionLog, ask: Ask
) -> dict[str, Interests]:
    """The texts of recent items, and those of recent users' partitions."""
    config = job.config
    partitions = close_partitions(log, config.knowledge.liber.trigger)
    items = {item: catalogue.items[item] for item in recent.item_ids(log) if item in catalogue.items}
    of_users, imported = recent.partitions_of(partitions), imported_users(job)
    liked_above, words = config.feature_schema.liked_above, config.data.texts
    described = Catalogue(catalogue.users, items)
    return {
        "items": Interests(config.knowledge, words, liked_above, described, log, partitions, ask),
        "partitions": Interests(config.knowledge, words, liked_above, catalogue, log, of_users, ask, imported),
    }


def kinds_of_texts(job: Job, names: Sequence[str]) -> tuple[str, ...]:
    """The kinds of texts that these producers read, in the order in which they are asked for."""
    found = dict.fromkeys(kind for name in ORDER if name in names for kind in TEXTS[name])
    return tuple(kind for kind in found if kind != "shifts" or job.config.knowledge.liber.shift)
