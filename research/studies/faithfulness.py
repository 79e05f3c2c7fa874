"""How many stored answers of a language model name what their questions do not (offline/knowledge/faithfulness.py).
Asks nothing, computes nothing else, looks at no interaction but to write the questions anew."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog
from offline.jobs.llm_requests import ask_of, imported_texts, kinds_of_texts, take_shipped_answers
from offline.jobs.steps import Job
from offline.knowledge.encoder import TextEncoder
from offline.knowledge.faithfulness import INVENTION_KINDS, Faithfulness, Invention, inventions_of
from offline.knowledge.groups import likely_prompts
from offline.knowledge.knowledge_texts import Answered, KnowledgeTexts
from offline.knowledge.run import producers_of
from offline.llm.protocol import Prompt
from offline.llm.session import open_session
from research.tables import table


@dataclass(slots=True)
class StoredFaithfulness:
    """Counts of a model's stored answers by kind of text, and each finding with its answer, for people to look at."""

    model: str = ""
    counts: defaultdict[str, Faithfulness] = field(default_factory=lambda: defaultdict(Faithfulness))
    findings: list[tuple[str, Invention, str]] = field(default_factory=list)

    def markdown(self, shown: int = 0, seed: int = 1) -> str:
        """A row for each kind of text, and so many drawn findings."""
        rows = [
            [
                self.model,
                kind,
                f"{of.answers:,}",
                f"{of.rate:.2%}",
                *(f"{of.kinds[each]:,}" for each in INVENTION_KINDS),
            ]
            for kind, of in self.counts.items()
        ]
        heads = ["model", "answers about", "answers", "faithful", *(f"with a {kind}" for kind in INVENTION_KINDS)]
        order = np.random.default_rng(seed).permutation(len(self.findings)).tolist()
        drawn = [self.findings[at] for at in order[:shown]]
        lines = [f"- {kind}, {invention.kind}: {invention.words} -- {answer!r}" for kind, invention, answer in drawn]
        return "\n\n".join(filter(None, [table(heads, rows), "\n".join(lines)]))


def stored_faithfulness(job: Job, catalogue: Catalogue, log: InteractionLog) -> StoredFaithfulness:
    """The faithfulness of the answers that a job's settings read: shipped ones, and those of its runs. Second tries are
    compared with the first question, whose facts are theirs."""
    result, language = StoredFaithfulness(), job.config.data.texts.spoken
    with open_session(job.config.llm, job.llm, dry_run=True) as session:
        take_shipped_answers(job, session)
        result.model, read = session.account.model_id, ask_of(job, session)

        def ask(prompts: list[Prompt], label: str) -> Answered:
            answers = read(prompts, label)
            for prompt, text in zip(prompts, answers.texts, strict=True):
                if text is not None and not prompt.choices:
                    inventions = inventions_of(text, prompt, language)
                    result.counts[label].add(inventions)
                    result.findings += [(label, invention, text) for invention in inventions]
            return answers

        domain, knowledge = job.domain(catalogue, log), job.config.knowledge
        texts = KnowledgeTexts(domain, ask, imported_texts(job))
        for kind in kinds_of_texts(job, producers_of(job.config.feature_schema)):
            if kind == "groups":
                encoder = TextEncoder(knowledge.encoder, knowledge.encoder_tokens)
                texts.ask_groups(likely_prompts(domain, job.knowledge / kind, encoder.id))
            getattr(texts, kind)
    return result
