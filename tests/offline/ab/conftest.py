"""The thousand A/A experiments, made once."""

from __future__ import annotations

import pytest

from tests.offline.ab.simulate import Daily
from tests.offline.ab.thousand import Thousand, experiments, thousand


@pytest.fixture(scope="session")
def material() -> list[Daily]:
    return experiments()


@pytest.fixture(scope="session")
def aa(material: list[Daily]) -> Thousand:
    return thousand(material)
