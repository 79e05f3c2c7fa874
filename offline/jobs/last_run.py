"""The data of a job's last run and the texts that were answered by then, for jobs that ask nothing themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from offline.data.catalogue import Catalogue
from offline.data.dataset import open_dataset
from offline.data.log import InteractionLog
from offline.jobs.llm_requests import answered, imported_texts
from offline.jobs.steps import Job
from offline.knowledge.knowledge_texts import Answered
from offline.knowledge.quality import usable
from offline.knowledge.run import KnowledgeRun
from offline.knowledge.sources import Sources
from offline.llm.protocol import Prompt
from offline.llm.session import open_session
from offline.training.samples import split_samples


def data_of(job: Job) -> tuple[Catalogue, InteractionLog]:
    """Catalogue and log of a job's last run; DataError if there was none."""
    log = InteractionLog.load(job.log)
    return open_dataset(job.config.data, job.raw).catalogue(), log


@contextmanager
def sources_of(job: Job, catalogue: Catalogue, log: InteractionLog, producer: str) -> Iterator[Sources]:
    """The inputs of a producer, from stored answers alone: nothing is asked and nothing paid."""
    with open_session(job.config.llm, job.llm, dry_run=True) as session:

        def ask(prompts: list[Prompt], label: str) -> Answered:
            return answered(usable(session, prompts, label))

        run = KnowledgeRun(
            job.domain(catalogue, log),
            split_samples(job.config.samples, log).trained_rows,
            job.knowledge,
            job.checkpoints,
            ask,
            session.account.model_id,
            imported_texts(job),
            precision=job.config.arithmetic,
        )
        yield run.sources_of(producer)
