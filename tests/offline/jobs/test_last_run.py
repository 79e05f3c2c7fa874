"""The data of a job's last run."""

from __future__ import annotations

import pytest

from offline.data.catalogue import DataError
from offline.jobs.last_run import data_of
from tests.offline.pipeline import Pipeline


def test_there_is_nothing_before_the_first_run(fresh: Pipeline) -> None:
    with pytest.raises(DataError, match="run `refresh` or `knowledge` first"):
        data_of(fresh.job)
