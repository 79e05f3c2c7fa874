"""The published data set of a job, which protocols count the samples of."""

from __future__ import annotations

from offline.data.arrival import first_log
from offline.data.catalogue import Catalogue
from offline.data.dataset import open_dataset
from offline.data.log import InteractionLog
from offline.jobs.steps import Job


def data_set_of(job: Job) -> tuple[Catalogue, InteractionLog]:
    """Catalogue and log of a job's data set alone, without what came through a service's stream since: a published
    protocol counts the samples of the published data. No job has to have run. DataError if the data cannot be had."""
    source = open_dataset(job.config.data, job.raw)
    source.fetch()
    catalogue = source.catalogue()
    return catalogue, first_log(source, catalogue, job.config.data.labels, job.config.feature_schema)
