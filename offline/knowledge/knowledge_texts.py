"""The texts that all producers share: the language model's words about items, closed partitions, and shifts.

Every text is asked for once per run, by whichever producer needs it first, and paid for once for ever (the answer
cache). A text is None where the model gave no usable answer. Such a text is ``absent`` if it may still come: the call
failed, was throttled, or did not fit into the budget, and the next run asks again. Otherwise its answer was bad or
refused, and no run asks again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from models.contract.arrays import BoolArray, IntArray
from models.contract.leaving import IMPORTED
from models.contract.schema import FeatureSchema
from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog
from offline.data.texts import TextsConfig
from offline.knowledge.config import KnowledgeConfig
from offline.knowledge.liber.partitions import Partitions, Trigger, close_partitions
from offline.knowledge.prompts import (
    PartitionFacts,
    SummaryContext,
    item_prompt,
    item_text,
    number_prompts,
    profile_facts,
    profile_fields,
    shift_prompt,
    shift_text,
    summary_prompt,
    summary_text,
    taste,
)
from offline.llm.protocol import Prompt
from offline.store import owner_mark

if TYPE_CHECKING:  # it loads polars, which a refresh without imports does not need
    from offline.data.texts_import import ImportedTexts


_IMPORTED, _NOTHING = frozenset([IMPORTED]), frozenset[str]()


@dataclass(frozen=True, slots=True)
class Answered:
    """Answers in the order of the prompts; see the module for what None and ``absent`` [n] mean."""

    texts: Sequence[str | None]
    absent: Sequence[bool]


Ask = Callable[[list[Prompt], str], Answered]
"""The language model as this module uses it: prompts and a label for people in, answers in their order out."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts aligned with items, partitions or shifts, ready to encode; "" where there is none."""

    texts: tuple[str, ...]
    absent: BoolArray

    @property
    def known(self) -> BoolArray:
        return np.array([bool(text) for text in self.texts], np.bool_)


@dataclass(frozen=True, slots=True)
class NumberAnswers:
    """Answers about each item in the order of ``number_prompts``, None where there is none; () for an item without a
    description. ``absent`` [items]: some may still come."""

    answers: tuple[tuple[str | None, ...], ...]
    absent: BoolArray


@dataclass(frozen=True, slots=True)
class Versions:
    """Knowledge of users, version by version, grouped by user and oldest first; one per closed partition that has a
    summary, and one per imported text about a user as a whole.

    ``start`` [users + 1], ``user`` [V] and ``since`` [V] are as in ``knowledge.vectors.UserVectors``. ``texts`` [V] are
    what is encoded, ``tastes`` [V] the shorter form without titles; ``partitions`` [V] are -1 for texts about a user.
    """

    start: IntArray
    user: IntArray
    since: IntArray
    texts: tuple[str, ...]
    tastes: tuple[str, ...]
    partitions: IntArray

    def __len__(self) -> int:
        return len(self.user)


def closing(trigger: Trigger) -> str:
    """The trigger of partitions in words, for people and for comparison: different triggers have different words."""
    size = [] if trigger.size is None else [f"{trigger.size} interactions"]
    span = [] if trigger.span_ms is None else [f"{trigger.span_ms / 86_400_000:.15g} days"]
    return " or ".join(size + span)


@dataclass(frozen=True, slots=True)
class Domain:
    """A data set as the producers of knowledge see it: its people, items and interactions, the words for them, and the
    settings and the schema of the knowledge that is to be made of them."""

    config: KnowledgeConfig
    schema: FeatureSchema
    vocabulary: TextsConfig
    catalogue: Catalogue
    log: InteractionLog

    def partitions(self) -> Partitions:
        """Every partition that the log closes."""
        return close_partitions(self.log, self.config.liber.trigger)


class KnowledgeTexts:
    """Texts of one run. Properties ask the model when they are first read.

    ``imported`` are texts that somebody else wrote (offline/data/texts_import.py). One about an item takes the place of
    the model's answer, and is all that is said of an item without a description. One about a partition takes the place
    of the model's summary, from the moment of its import on, if partitions still close as they did then; one about the
    user as a whole is a version more. A shift is told only from a summary that was there before the one it leads to:
    otherwise a version that is visible early would quote a text that was imported later.
    """

    def __init__(
        self, domain: Domain, ask: Ask, imported: ImportedTexts | None = None, partitions: Partitions | None = None
    ) -> None:
        """``partitions`` None: all that the log closes."""
        self._config = domain.config
        self._vocabulary = domain.vocabulary
        self._liked_above = domain.schema.liked_above
        self._features = [domain.catalogue.items.get(item, {}) for item in domain.log.item_ids]
        self._log = domain.log
        self._users = domain.catalogue.users
        self._ask = ask
        self.shift_prompts: Mapping[int, Prompt] = {}  # by partition, once the shifts were asked for
        self.groups = Texts((), np.zeros(0, np.bool_))  # once somebody knows the groups
        self.partitions = partitions = domain.partitions() if partitions is None else partitions
        numbers = {name: at for at, name in enumerate(domain.log.user_ids)}
        known = [(numbers[text.user], text) for text in (imported.users if imported else ()) if text.user in numbers]
        trigger = closing(domain.config.liber.trigger)
        self._about_items = imported.items if imported else {}
        self._about_users = [(user, text) for user, text in known if text.partition is None]
        self._about_partitions = {
            int(partitions.start[user]) + text.partition: text
            for user, text in known
            if text.partition is not None
            and text.trigger == trigger
            and text.partition < partitions.start[user + 1] - partitions.start[user]
        }

    @cached_property
    def items(self) -> Texts:
        """One text per item of the log: facts, then what the model says, or who wrote the imported text. An item with
        neither description nor import has none."""
        vocabulary, tokens, features = self._vocabulary, self._config.item_tokens, self._features
        given = [self._about_items.get(item) for item in self._log.item_ids]
        described = [vocabulary.describes(item) for item in features]
        prompts = {
            at: item_prompt(vocabulary, item, tokens)
            for at, item in enumerate(features)
            if described[at] and given[at] is None
        }
        answers = self._with_answers(given, prompts, "items")
        texts = [
            "" if text is None else item_text(vocabulary, item, text) if is_described else text
            for item, is_described, text in zip(features, described, answers.texts, strict=True)
        ]
        return Texts(tuple(texts), np.array(answers.absent, np.bool_))

    @cached_property
    def numbers(self) -> NumberAnswers:
        """Answers to the questions whose answers are numbers, from what the catalogue says of each item."""
        vocabulary, config = self._vocabulary, self._config.numbers
        about = [
            number_prompts(vocabulary, config, item) if vocabulary.describes(item) else [] for item in self._features
        ]
        said = self._ask([prompt for prompts in about for prompt in prompts], "numbers of items")
        texts, absent = iter(said.texts), iter(said.absent)
        return NumberAnswers(
            tuple(tuple(islice(texts, len(prompts))) for prompts in about),
            np.array([any(list(islice(absent, len(prompts)))) for prompts in about], np.bool_),
        )

    def ask_groups(self, prompts: Sequence[Prompt]) -> Sequence[str | None]:
        """What is said of groups; ``groups`` has it, too."""
        said = self._ask(list(prompts), "groups")
        self.groups = Texts(tuple(text or "" for text in said.texts), np.array(said.absent, np.bool_))
        return said.texts

    @cached_property
    def facts(self) -> list[PartitionFacts]:
        """The facts of every closed partition; items that the catalogue does not name are left out."""
        names = [self._vocabulary.item_name(item) for item in self._features]
        topics = [self._vocabulary.topics_of(item) for item in self._features]
        named, facts = np.array([bool(name) for name in names], np.bool_), []
        for partition in range(len(self.partitions)):
            rows = self.partitions.rows_of(partition)
            rows = rows[named[self._log.item[rows]]]
            items, liked = self._log.item[rows].tolist(), (self._log.value[rows] > self._liked_above).tolist()
            facts.append(PartitionFacts([names[item] for item in items], liked, [topics[item] for item in items]))
        return facts

    @property
    def summary_prompts(self) -> Mapping[int, Prompt]:
        """By partition. Where a question tells the summary before, the model is asked for those, and there is no
        question yet where the one before is still to come."""
        return self._summaries_and_prompts[1]

    def _summary_prompts_of(self, partitions: Sequence[int], said: Sequence[str | None]) -> dict[int, Prompt]:
        """Questions about these partitions; what was ``said`` of those before them is told if that is a setting."""
        config, vocabulary = self._config.liber, self._vocabulary
        prompts = (
            summary_prompt(vocabulary, self.facts[at], config.summary_tokens, config.titles, self._context(at, said))
            for at in partitions
        )
        return dict(zip(partitions, self._owned(prompts, partitions), strict=True))

    def _context(self, at: int, said: Sequence[str | None]) -> SummaryContext:
        config, user = self._config.liber, self._log.user_ids[self.partitions.user[at]]
        profile = profile_facts(self._vocabulary, config.profile, user, self._users.get(user, {}))
        if not (config.previous and self._follows(at, said)):
            return SummaryContext(profile, carries=profile_fields(config.profile))
        before = taste(self._vocabulary, self.facts[at - 1], said[at - 1] or "")
        return SummaryContext(profile, before, self._quoted(at - 1, at - 1))

    def _follows(self, at: int, said: Sequence[str | None]) -> bool:
        """Whether the partition before is the same user's, and had a summary when this one could have its own."""
        since = self._since
        return bool(not self._is_first[at] and said[at - 1] is not None and since[at - 1] <= since[at])

    def _quoted(self, earliest: int, latest: int) -> frozenset[str]:
        """Fields that a question carries which quotes the summaries of these partitions of a user. Where a summary
        reads the one before, what is imported of any earlier one may be in it."""
        config = self._config.liber
        if config.previous:
            earliest = int(self.partitions.start[self.partitions.user[latest]])
        imported = any(at in self._about_partitions for at in range(earliest, latest + 1))
        return profile_fields(config.profile) | (_IMPORTED if imported else _NOTHING)

    @cached_property
    def _is_first(self) -> BoolArray:
        return self.partitions.first_of_user()

    def _owned(self, prompts: Iterable[Prompt], partitions: Sequence[int]) -> list[Prompt]:
        """The prompts with the marks of the users whose partitions they are about."""
        marks = [owner_mark(self._log.user_ids[self.partitions.user[at]]) for at in partitions]
        return [replace(prompt, owner=mark) for prompt, mark in zip(prompts, marks, strict=True)]

    @property
    def _summaries(self) -> Answered:
        return self._summaries_and_prompts[0]

    @cached_property
    def _summaries_and_prompts(self) -> tuple[Answered, dict[int, Prompt]]:
        """What is said of each partition, and the questions. Where a question tells the summary before, everybody's
        first partitions are asked about together, then the second ones, and so on; one whose predecessor is still to
        come is to come as well."""
        count, imported = len(self.partitions), self._about_partitions
        texts = [imported[at].text if at in imported else None for at in range(count)]
        absent, prompts = np.zeros(count, np.bool_), dict[int, Prompt]()
        for asked in self._rounds():
            if self._config.liber.previous:
                absent[asked] = ~self._is_first[asked] & absent[asked - 1]
            new = self._summary_prompts_of(asked[~absent[asked]].tolist(), texts)
            answers = self._ask(list(new.values()), "interest summaries")
            for at, answer, missing in zip(new, answers.texts, answers.absent, strict=True):
                texts[at], absent[at] = answer, missing
            prompts |= new
        return Answered(texts, absent.tolist()), prompts

    def _rounds(self) -> Iterator[IntArray]:
        """Partitions without an imported text, in the order in which the model can be asked about them."""
        asked = np.array([at not in self._about_partitions for at in range(len(self.partitions))], np.bool_)
        place = np.arange(len(asked)) - self.partitions.start[self.partitions.user]
        last = int(place.max(initial=0)) if self._config.liber.previous else 0
        for number in range(last + 1):
            yield np.flatnonzero(asked & (place == number)) if last else np.flatnonzero(asked)

    def _with_answers(self, given: Sequence[str | None], prompts: Mapping[int, Prompt], label: str) -> Answered:
        """The texts that are ``given``, and at the positions of the ``prompts`` what the model answers."""
        answers = self._ask(list(prompts.values()), label)
        texts, absent = list(given), [False] * len(given)
        for at, answer, missing in zip(prompts, answers.texts, answers.absent, strict=True):
            texts[at], absent[at] = answer, missing
        return Answered(texts, absent)

    @cached_property
    def summaries(self) -> Texts:
        """One text per closed partition."""
        answers = self._summaries
        texts = [
            "" if answer is None else summary_text(self._vocabulary, facts, answer)
            for facts, answer in zip(self.facts, answers.texts, strict=True)
        ]
        return Texts(tuple(texts), np.array(answers.absent, np.bool_))

    @cached_property
    def shifts(self) -> Texts:
        """One text per closed partition that has a predecessor, if both have a summary; nothing is asked for others."""
        said = self._summaries.texts
        asked = [
            at for at in range(len(said)) if said[at] is not None and self._follows(at, said)
        ]  # a summary that may still come is asked for a shift in the run that has it
        vocabulary, tokens = self._vocabulary, self._config.liber.shift_tokens
        compared = {at for partition in asked for at in (partition - 1, partition)}
        tastes = {at: taste(vocabulary, self.facts[at], said[at] or "") for at in compared}
        unowned = (
            shift_prompt(vocabulary, tastes[at - 1], tastes[at], tokens, self._quoted(at - 1, at)) for at in asked
        )
        prompts = self._owned(unowned, asked)
        self.shift_prompts = dict(zip(asked, prompts, strict=True))
        answers = self._ask(prompts, "interest shifts")
        texts, absent = [""] * len(said), np.array(self._summaries.absent, np.bool_)
        for at, answer, missing in zip(asked, answers.texts, answers.absent, strict=True):
            texts[at] = "" if answer is None else shift_text(vocabulary, self.facts[at - 1], self.facts[at], answer)
            absent[at] |= missing
        return Texts(tuple(texts), absent)

    @cached_property
    def versions(self) -> Versions:
        """All versions of all users."""
        partitions, said, texts = self.partitions, self._summaries.texts, self.summaries.texts
        rows = []
        for at in range(len(partitions)):
            text = said[at]
            if text is not None:
                user, since = int(partitions.user[at]), int(self._since[at])
                rows.append((user, since, texts[at], taste(self._vocabulary, self.facts[at], text), at))
        rows += [(user, text.from_row - 1, text.text, text.text, -1) for user, text in self._about_users]
        rows.sort(key=lambda row: row[:2])
        users = np.array([row[0] for row in rows], np.int64)
        counts = np.bincount(users, minlength=len(self._log.user_ids))
        return Versions(
            start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            user=users,
            since=np.array([row[1] for row in rows], np.int64),
            texts=tuple(row[2] for row in rows),
            tastes=tuple(row[3] for row in rows),
            partitions=np.array([row[4] for row in rows], np.int64),
        )

    @cached_property
    def _since(self) -> IntArray:
        """The last log row [partitions] before each partition's summary may be seen."""
        since = self.partitions.closed_at.astype(np.int64)
        for at, text in self._about_partitions.items():
            since[at] = max(int(since[at]), text.from_row - 1)
        return since

    def owned_texts(self) -> list[tuple[str, str]]:
        """(text, its user's mark) of every text about a user that is encoded or read; asks nothing that was not."""
        versions = self.versions
        texts = [*versions.texts, *versions.tastes, *(self.shifts_of(versions) if "shifts" in vars(self) else ())]
        users = [owner_mark(self._log.user_ids[user]) for user in versions.user.tolist()]
        return [(text, users[at % len(users)]) for at, text in enumerate(texts) if text]

    def shifts_of(self, versions: Versions) -> tuple[str, ...]:
        """The shift into each version, "" where there is none."""
        texts = self.shifts.texts
        return tuple(texts[at] if at >= 0 else "" for at in versions.partitions.tolist())
