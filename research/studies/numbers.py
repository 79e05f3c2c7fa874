"""What a language model's numbers about items are worth before any model reads them: whether they depend on how a scale
is put, and whether they go with what the training period says of the items. Nothing of later periods is looked at, and
no question is chosen by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.contract.arrays import FloatArray, IntArray
from offline.data.catalogue import Catalogue, DataError
from offline.data.log import InteractionLog
from offline.jobs.llm_requests import ask_of, take_shipped_answers
from offline.jobs.steps import Job
from offline.knowledge.knowledge_texts import Ask, Domain, KnowledgeTexts
from offline.knowledge.numbers import Weighed
from offline.llm.account import Account
from offline.llm.session import open_session
from offline.training.samples import split_samples
from research.tables import table

LEAST_ROWS = 50
"""Training rows of an item whose mean value is known well enough to be compared with."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the training period says of each item of a log: ``rows`` [items] and the mean ``value`` [items] of them, nan
    without any."""

    rows: IntArray
    value: FloatArray

    @classmethod
    def of(cls, log: InteractionLog, trained_rows: int) -> Known:
        early = log.observed[log.observed < trained_rows]
        rows = np.bincount(log.item[early], minlength=len(log.item_ids))
        total = np.bincount(log.item[early], weights=log.value[early], minlength=len(log.item_ids))
        return cls(rows, np.where(rows > 0, total / np.maximum(rows, 1), np.nan))


@dataclass(frozen=True, slots=True)
class Numbers:
    """Answers about drawn and shown ``items`` (numbers of the log), of which the first ``shown`` are the most popular,
    for people to look at; what they cost is in ``account``."""

    domain: Domain
    known: Known
    items: IntArray
    shown: int
    weighed: Weighed
    account: Account

    def markdown(self) -> str:
        """A line on the cost, a table of the questions, and one of the shown items."""
        parts = [self._cost(), table(_HEADS, self._questions())]
        return "\n\n".join([*parts, self._items()] if self.shown else parts)

    def _cost(self) -> str:
        paid = self.account
        rate = (
            f"{paid.prompt_tokens / paid.seconds:.0f} prompt tokens/s"
            if paid.paid and paid.seconds
            else "nothing asked"
        )
        complete = int(np.isfinite(self.weighed.expected).all(axis=(1, 2)).sum())
        return (
            f"{paid.model_id}: {complete} of {len(self.items)} items complete; {paid.paid} answers in {paid.calls} "
            f"calls, {paid.prompt_tokens} prompt tokens in {paid.seconds:.0f} s ({rate}, shared words in each)"
        )

    def _questions(self) -> list[list[str]]:
        drawn = slice(self.shown, None)
        weighed = Weighed(*(getattr(self.weighed, name)[drawn] for name in ("probabilities", "mass", "unlisted")))
        # an item whose answers are not all there counts nowhere
        complete = np.isfinite(weighed.expected).all(axis=(1, 2))
        weighed = Weighed(*(getattr(weighed, name)[complete] for name in ("probabilities", "mass", "unlisted")))
        expected, numbers, spreads = weighed.expected, weighed.numbers(), weighed.spreads()
        items = self.items[drawn][complete]
        rows, value = self.known.rows[items], self.known.value[items]
        enough = rows >= LEAST_ROWS
        lines = []
        for at, question in enumerate(self.domain.config.numbers.questions):
            number = numbers[:, at]
            bias, agreement = "", ""
            if expected.shape[1] == 2:
                bias = f"{np.nanmean(expected[:, 0, at] - expected[:, 1, at]):+.3f}"
                agreement = _correlation(expected[:, 0, at], expected[:, 1, at])
            lines.append([
                question.name,
                f"{np.nanmean(number):.3f} ± {np.nanstd(number):.3f}",
                f"{np.nanmean(spreads[:, at]):.3f}",
                f"{np.nanmedian(weighed.mass[:, :, at]):.3f}",
                f"{np.nanmax(weighed.unlisted[:, :, at]):.1g}",
                bias,
                agreement,
                _correlation(number[enough], value[enough]),
                _correlation(number[enough], np.log(rows[enough])),
            ])  # fmt: skip
        return lines

    def _items(self) -> str:
        names, log = self.domain.config.numbers.questions, self.domain.log
        lines = []
        for at in range(self.shown):
            item = int(self.items[at])
            features = self.domain.catalogue.items.get(log.item_ids[item], {})
            cells = [f"{number:.3f}" for number in self.weighed.numbers()[at]]
            known = [f"{self.known.value[item]:.2f}", str(int(self.known.rows[item]))]
            lines.append([self.domain.vocabulary.item_text(features), *cells, *known])
        return table(["item", *(question.name for question in names), "mean value", "rows"], lines)


_HEADS = (
    "question", "number ± over items", "spread", "mass", "unlisted", "order bias", "r of orders", "r with mean value",
    "r with log rows",
)  # fmt: skip


def ask_numbers(job: Job, catalogue: Catalogue, log: InteractionLog, count: int, shown: int, seed: int) -> Numbers:
    """Ask about the ``shown`` most popular items of the training period and ``count`` others drawn from those with
    ``LEAST_ROWS``, and store the answers where the job's own runs find them. DataError if nothing can be drawn."""
    known = Known.of(log, split_samples(job.config.samples, log).trained_rows)
    whole = job.domain(catalogue, log)
    described = np.array([whole.vocabulary.describes(catalogue.items.get(item, {})) for item in log.item_ids])
    eligible = np.flatnonzero(described & (known.rows >= LEAST_ROWS))
    if not len(eligible):
        raise DataError(
            f"no described item has {LEAST_ROWS} interactions in the training period: nothing to compare with"
        )
    popular = eligible[np.argsort(-known.rows[eligible], kind="stable")][:shown]
    drawn = np.random.default_rng(seed).permutation(np.setdiff1d(eligible, popular))[:count]
    with open_session(job.config.llm, job.llm, precision=job.config.arithmetic) as session:
        take_shipped_answers(job, session)
        parts = [_about(whole, items, ask_of(job, session)) for items in (popular, drawn)]
        print(session.account.summary("numbers"), flush=True)
        items = np.concatenate([popular, drawn])
        weighed = Weighed.of([answer for part in parts for answer in part], whole.config.numbers)
        return Numbers(whole, known, items, len(popular), weighed, session.account)


def _about(whole: Domain, items: IntArray, ask: Ask) -> Sequence[Sequence[str | None]]:
    """Answers about these items of a data set alone, in their order."""
    ids = [whole.log.item_ids[item] for item in items.tolist()]
    few = replace(
        whole, catalogue=Catalogue(whole.catalogue.users, {item: whole.catalogue.items[item] for item in ids})
    )
    answers = KnowledgeTexts(few, ask).numbers.answers
    return [answers[item] for item in items.tolist()]


def _correlation(a: FloatArray, b: FloatArray) -> str:
    """Spearman's rank correlation with its 95 % interval, by Fisher's transformation."""
    both = np.isfinite(a) & np.isfinite(b)
    n = int(both.sum())
    if n < 5 or np.ptp(a[both]) == 0 or np.ptp(b[both]) == 0:
        return ""
    r = float(np.corrcoef(_ranks(a[both]), _ranks(b[both]))[0, 1])
    z, half = np.arctanh(np.clip(r, -0.999999, 0.999999)), 1.96 * np.sqrt(1.06 / (n - 3))
    return f"{r:+.2f} [{np.tanh(z - half):+.2f}, {np.tanh(z + half):+.2f}]"


def _ranks(values: FloatArray) -> FloatArray:
    """Ranks [n] from 1; equal values share the mean of theirs."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[group])
