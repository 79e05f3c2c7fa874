"""The published data set of a job."""

from __future__ import annotations

from offline.jobs.llm_requests import data_of
from research.data_set import data_set_of
from tests.offline.pipeline import Pipeline


def test_a_data_set_is_without_what_was_streamed(installed: Pipeline) -> None:
    _, before = data_of(installed.job)
    installed.close_partition_of("u3")
    installed.refresh()
    _, log = data_of(installed.job)
    catalogue, published = data_set_of(installed.job)
    assert len(log) > len(before) == len(published)
    assert published.item_ids == before.item_ids
    assert set(published.item_ids) <= set(catalogue.items)


def test_no_job_has_to_have_run(fresh: Pipeline) -> None:
    catalogue, published = data_set_of(fresh.job)
    assert len(published) > 0
    assert set(published.item_ids) <= set(catalogue.items)
