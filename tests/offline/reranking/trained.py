"""A CTR model that is really trained, in seconds: log, knowledge and artifact as a refresh leaves them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog
from offline.jobs.steps import Job
from offline.knowledge.run import load_knowledge, producers_of
from offline.knowledge.vectors import Knowledge, Lineage
from offline.reranking.ctr import CtrScores, ctr_scores
from offline.training.report import TrainingReport
from offline.training.run import train


@dataclass(frozen=True)
class TrainedJob:
    """The work folder of ``job`` after a training."""

    job: Job
    catalogue: Catalogue
    log: InteractionLog
    report: TrainingReport

    def knowledge(self, log: InteractionLog | None = None) -> Knowledge:
        """What lies on the disk, for the log of the folder or for another."""
        return load_knowledge(self.job.knowledge, self.job.config.feature_schema, self.log if log is None else log)

    def scores(self, log: InteractionLog | None = None) -> CtrScores:
        """The CTR model, reading the log of the folder or another."""
        read = self.log if log is None else log
        return ctr_scores(self.job, self.catalogue, read, self.knowledge(read), self.report)


def trained(job: Job, catalogue: Catalogue, log: InteractionLog, knowledge: Knowledge) -> TrainedJob:
    """Save log and knowledge, and train on them."""
    log.save(job.log)
    for name in producers_of(job.config.feature_schema):
        replace(knowledge.produced[name], lineage=Lineage.of(log)).save(job.knowledge / name)
    known = load_knowledge(job.knowledge, job.config.feature_schema, log)
    assert known.schema(job.config.feature_schema).knowledge == job.config.feature_schema.knowledge
    report = train(job.config, catalogue, log, known, job.models)
    report.save(job.models / "report.json")
    return TrainedJob(job, catalogue, log, report)
