"""The thousand A/A experiments, made once."""

from __future__ import annotations

import pytest

from tests.offline.experiments.thousand import Thousand, thousand


@pytest.fixture(scope="session")
def aa() -> Thousand:
    return thousand()
