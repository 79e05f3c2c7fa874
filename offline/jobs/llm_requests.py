"""The language model as the producers ask it: counted into the run, and bounded by ``--since``.

The model is not asked for texts that were imported. With ``--since``, it is asked for texts of users and items with
something new; texts of all others come from the cache alone, and texts that the cache lacks are left to a run without
``--since``. Jobs that ask nothing read the answers of the last run.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from models.contract.leaving import IMPORTED
from offline.data.catalogue import Catalogue, DataError
from offline.data.dataset import open_dataset
from offline.data.languages.english import ENGLISH
from offline.data.log import InteractionLog
from offline.engine.engines import Engine
from offline.jobs.events import Recent
from offline.jobs.runs import Run
from offline.jobs.steps import Job
from offline.knowledge.config import MULTILINGUAL_ENCODER, PACKAGED_ENCODER
from offline.knowledge.faithfulness import Faithfulness, inventions_of
from offline.knowledge.inputs import ProducerInputs
from offline.knowledge.knowledge_texts import Answered, Ask, KnowledgeTexts, closing
from offline.knowledge.prompts import group_fields, item_fields, taste_fields
from offline.knowledge.quality import Asks, Problem, Usable, cleaned, problem, usable
from offline.knowledge.run import ORDER, KnowledgeRun, producers_of
from offline.llm.batches import REFUSED_RUNS
from offline.llm.cache import cache_key, stored_answers
from offline.llm.client import REMEDY, SETTING
from offline.llm.protocol import Answers, Completion, Prompt
from offline.llm.session import LLMSession, open_session
from offline.publish.tombstones import ForgottenUsers
from offline.training.samples import split_samples

if TYPE_CHECKING:
    from offline.data.texts_import import ImportedTexts

TEXTS = {
    "text": (),
    "liber": ("summaries", "shifts"),
    "autograph": ("items", "summaries"),
    "marc": ("items", "summaries"),
    "groups": ("groups",),
    "numbers": ("numbers",),
}
"""Kinds of texts that each producer reads; the first producer of a run that reads a kind asks for it."""
ABOUT_NOBODY = frozenset({"items", "groups", "numbers"})
"""Kinds of texts about items, and about groups of items or of many users; the others are about single users."""


class LLMRun:
    """The questions of a run to the language model, through one ``session``; each is counted in the run's line."""

    def __init__(self, run: Run, session: LLMSession) -> None:
        self.session = session
        self._run, self._language = run, run.job.config.data.texts.spoken
        self._answering = session
        self._again, self._bad = Counter[str](), Counter[str]()
        self._faithfulness = defaultdict[str, Faithfulness](Faithfulness)
        run.asked(session.account, {}, {})  # a run that is killed while it asks for hours is found by its account's id
        for line in import_lines(run.job):
            print(f"  {line}", flush=True)

    def __call__(self, prompts: list[Prompt], label: str) -> Answered:
        before = replace(self._faithfulness[label])
        answers = self._usable(self._answering, prompts, label)
        print(f"  {label}: {answers.summary()}", flush=True)
        if new := self._faithfulness[label].answers - before.answers:
            unfaithful = self._faithfulness[label].unfaithful - before.unfaithful
            print(f"  {label}: {unfaithful} of {new} new answers name what their question does not", flush=True)
        return answered(answers)

    def ask_recent(self, texts: tuple[str, ...], recent: Recent, catalogue: Catalogue, log: InteractionLog) -> None:
        """Ask for these kinds of texts of recent users and items."""

        def ask(prompts: list[Prompt], label: str) -> Answered:
            return answered(self._usable(self.session, prompts, label))

        knowledge_texts = texts_of_recent(self._run.job, recent, catalogue, log, ask)
        for kind in texts:
            getattr(knowledge_texts["items" if kind in ABOUT_NOBODY else "partitions"], kind)

    @contextmanager
    def from_cache_alone(self) -> Iterator[None]:
        """Context in which the cache alone answers. Texts that no run has asked for yet do not count as ``absent``."""
        job = self._run.job
        with open_session(job.config.llm, job.llm, dry_run=True) as closed:
            self._answering = closed
            try:
                yield
            finally:
                self._answering = self.session
                if left := closed.absent - self.session.absent:
                    print(f"  {left} texts of users and items without news are left for a run without --since")

    def _usable(self, session: LLMSession, prompts: list[Prompt], label: str) -> Usable:
        """Usable answers; what was wrong with those that this run asked for is counted."""
        job = self._run.job
        asking = _Fresh(session, job, self._faithfulness[label])
        try:
            return usable(asking, prompts, f"  {label}", self._language, faithful=job.config.knowledge.faithful)
        finally:  # a run that is stopped here has paid too
            for count, wrong in zip((self._again, self._bad), asking.wrong, strict=False):  # or no second try
                count.update(wrong)
            self._bad.update(asking.refused)
            counts = {kind: counted.document() for kind, counted in self._faithfulness.items() if counted.answers}
            self._run.asked(self.session.account, self._again, self._bad, counts)


class _Fresh:
    """A session that counts its new bad answers: ``wrong`` has one count by problem per call, ``refused`` counts the
    prompts that are refused for good since this run, ``faithfulness`` the new ones that are well formed.

    Bad answers stay in the cache and are read again by every run; they are news in the run that asked for them only.
    """

    def __init__(self, session: LLMSession, job: Job, faithfulness: Faithfulness) -> None:
        self.wrong: list[Counter[str]] = []
        self.refused = Counter[str]()
        self._session, self._use_cache, self._faithfulness = session, job.use_cache, faithfulness
        self._language, self._faithful = job.config.data.texts.spoken, job.config.knowledge.faithful

    def ask_all(self, prompts: Sequence[Prompt], progress_label: str) -> Answers:
        """Answers of the session, after counting the bad ones among the new."""
        session, model = self._session, self._session.account.model_id
        keys = [cache_key(model, prompt) for prompt in prompts]
        known = stored_answers(session.cache, model, dict(zip(keys, prompts, strict=True))) if self._use_cache else {}
        paid, refused = session.account.paid, session.cache.refused(list(dict.fromkeys(keys)), REFUSED_RUNS)
        answers = session.ask_all(prompts, progress_label)
        got = zip(keys, answers.completions, prompts, strict=True) if session.account.paid > paid else ()
        fresh = {key: (answer, prompt) for key, answer, prompt in got if answer is not None and key not in known}
        problems = [self._problem(answer, prompt) for answer, prompt in fresh.values()]
        if now := {keys[at] for at in answers.refused} - refused:
            self.refused["refused"] += len(now)
        self.wrong.append(Counter(answer for answer in problems if answer is not None))
        return answers

    def _problem(self, answer: Completion, prompt: Prompt) -> Problem | None:
        """The problem of an answer. A well-formed one is counted."""
        if (wrong := problem(answer, prompt, self._language)) is not None or prompt.choices:
            return wrong
        inventions = inventions_of(cleaned(answer, prompt, self._language), prompt, self._language)
        self._faithfulness.add(inventions)
        return "unfaithful" if inventions and self._faithful else None


def take_shipped_answers(job: Job, session: LLMSession) -> None:
    """Import the answers that come with the configuration, and forget refusals if the job is to ask them again."""
    if job.ask_refused:
        session.cache.forget_refusals()
    shipped = job.config.knowledge.shipped_responses
    if job.use_cache and shipped is not None:
        session.cache.import_jsonl_gz(shipped)


def answered(answers: Usable) -> Answered:
    """Usable answers as the producers read them."""
    return Answered(answers.texts, [state == "absent" for state in answers.states])


def ask_of(job: Job, session: Asks) -> Ask:
    """The language model as the producers read it: usable answers of a session, uncounted."""
    language, faithful = job.config.data.texts.spoken, job.config.knowledge.faithful

    def ask(prompts: list[Prompt], label: str) -> Answered:
        return answered(usable(session, prompts, label, language, faithful=faithful))

    return ask


def imported_texts(job: Job) -> ImportedTexts | None:
    """Imported texts of a job; None without any. DataError if texts about partitions do not say what closed these."""
    if not job.imported.is_file():
        return None
    from offline.data.texts_import import ImportedTexts  # polars only where files are read

    texts = ImportedTexts.load(job.imported)
    if unplaced := len(texts.users) - len(texts.placed().users):
        raise DataError(
            f"{job.imported} holds texts about partitions ({unplaced}) that do not say what closed them, because an "
            "earlier version imported them: run `import-texts --users FILE` again, with all texts about partitions"
        )
    return texts


def language_lines(job: Job) -> Iterator[str]:
    """Lines for people: which packaged parts of a job read and write English alone, where its texts are not English."""
    config, tag = job.config, job.config.data.texts.language
    if config.data.texts.spoken is ENGLISH:
        return
    names = producers_of(config.feature_schema)
    if config.knowledge.encoder == PACKAGED_ENCODER and {"text", "liber", "autograph", "groups"}.intersection(names):
        yield (
            f'language "{tag}": the text encoder {PACKAGED_ENCODER} reads English alone; '
            f'set knowledge.encoder to "{MULTILINGUAL_ENCODER}" or to a folder'
        )
    written = set(kinds_of_texts(job, names)) - {"numbers"}
    if config.llm.backend == "local" and config.llm.model is None and written:
        differs = config.data.texts.spoken.differs_from_english
        fate = "such answers are thrown away" if differs else "nothing tells its answers from others, so they are used"
        yield (
            f'language "{tag}": the packaged language model writes English alone, and {fate}; '
            'set llm.model, or llm.backend = "openai"'
        )
    if config.knowledge.marc.model is None and "marc" in names:
        yield f'language "{tag}": the packaged model, whose states MARC reads, knows English; set knowledge.marc.model'


def import_lines(job: Job) -> Iterator[str]:
    """Lines for people: how many texts are imported, and how many are left out since partitions close differently."""
    texts = imported_texts(job)
    if texts is None:
        return
    yield f"imported: texts of {len(texts.items)} items and {len({text.user for text in texts.users})} users"
    now = closing(job.config.knowledge.liber.trigger)
    for then, count in sorted(texts.left_out(now).items()):
        left = "text about a partition is" if count == 1 else "texts about partitions are"
        yield f"{count} imported {left} left out: imported when {then} closed one, and now {now} do; import them again"


def texts_of_recent(
    job: Job, recent: Recent, catalogue: Catalogue, log: InteractionLog, ask: Ask
) -> dict[str, KnowledgeTexts]:
    """The texts of recent items, and those of recent users' partitions."""
    everything, imported = job.domain(catalogue, log), imported_texts(job)
    items = {item: catalogue.items[item] for item in recent.item_ids(log) if item in catalogue.items}
    of_items = replace(everything, catalogue=Catalogue(catalogue.users, items))
    partitions = recent.partitions_of(everything.partitions())
    return {
        "items": KnowledgeTexts(of_items, ask, imported),
        "partitions": KnowledgeTexts(everything, ask, imported, partitions),
    }


def kinds_of_texts(job: Job, names: Sequence[str]) -> tuple[str, ...]:
    """The kinds of texts that these producers read, in the order in which they are asked for."""
    kinds = dict.fromkeys(kind for name in ORDER if name in names for kind in TEXTS[name])
    return tuple(kind for kind in kinds if kind != "shifts" or job.config.knowledge.liber.shift)


def carried_fields(job: Job, names: Sequence[str]) -> frozenset[str]:
    """Fields that the questions of these producers carry (models/contract/leaving.py)."""
    kinds, vocabulary = kinds_of_texts(job, names), job.config.data.texts
    fields = item_fields(vocabulary) if {"items", "numbers"} & set(kinds) else frozenset[str]()
    if "groups" in kinds:
        sides = {spec.side for spec in job.config.feature_schema.knowledge if spec.name == "groups"}
        fields |= frozenset[str]().union(*(group_fields(vocabulary, side) for side in sides))
    liber = job.config.knowledge.liber
    if not ABOUT_NOBODY.issuperset(kinds):
        fields |= taste_fields(vocabulary, liber.profile)
    quotes = "shifts" in kinds or ("summaries" in kinds and liber.previous)
    if quotes and (texts := imported_texts(job)) is not None:
        fields |= {IMPORTED for text in texts.users if text.partition is not None}
    return fields


def not_let_out(job: Job, names: Sequence[str]) -> str:
    """Why the questions of these producers may not go to the server of the language model; "" if they may, also where
    the model is in this process."""
    outlet = job.config.llm.outlet
    if outlet is None or outlet.allowed is None:
        return ""
    return outlet.refusal(carried_fields(job, names), SETTING, REMEDY)


def data_of(job: Job) -> tuple[Catalogue, InteractionLog]:
    """Catalogue and log of a job's last run; DataError if there was none."""
    log, forgotten = InteractionLog.load(job.log), ForgottenUsers.load(job.config.workdir)
    return forgotten.without(open_dataset(job.config.data, job.raw).catalogue()), log


def knowledge_run(
    job: Job,
    catalogue: Catalogue,
    log: InteractionLog,
    ask: Ask,
    model: str,
    engine: Engine | None = None,
    shipped: Path | None = None,
) -> KnowledgeRun:
    """A run of producers over a job's data, which asks the language model ``model`` by ``ask``."""
    return KnowledgeRun(
        job.domain(catalogue, log),
        split_samples(job.config.samples, log).trained_rows,
        job.knowledge,
        job.checkpoints,
        ask,
        model,
        imported_texts(job),
        engine,
        precision=job.config.arithmetic,
        shipped=shipped,
    )


@contextmanager
def inputs_of(job: Job, catalogue: Catalogue, log: InteractionLog, producer: str) -> Iterator[ProducerInputs]:
    """The inputs of a producer, for jobs that ask no language model: with the answers that are stored."""
    with open_session(job.config.llm, job.llm, dry_run=True) as session:
        ask, model = ask_of(job, session), session.account.model_id
        yield knowledge_run(job, catalogue, log, ask, model).inputs_of(producer)
