"""A small data set, and an evaluation of everything on it."""

from __future__ import annotations

import pytest

from research.quality.evaluation import Evaluation
from tests.research.quality.fakes import World, world


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world(tmp_path_factory.mktemp("benchmark"))


@pytest.fixture(scope="session")
def everything(small: World, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return small.evaluate(small.everything(), tmp_path_factory.mktemp("judged"))
