"""Settings of an analysis are checked when they are made."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from offline.ab.settings import AnalysisSettings

ARMS: dict[str, Any] = {"control": "off", "weights": {"off": 1.0, "on": 1.0}}


def test_what_is_left_out_has_a_default() -> None:
    made = AnalysisSettings(**ARMS)
    assert (made.alpha, made.breakdowns, made.start_ms) == (0.05, ("release", "day"), None)
    assert AnalysisSettings(**made.model_dump(mode="json")) == made


@pytest.mark.parametrize(
    "wrong",
    [
        {"control": "none"},
        {"weights": {"off": -1.0}},
        {"weights": {"off": float("inf")}},
        {"alpha": 0.6},
        {"breakdowns": ("colour",)},
        {"window_ms": 0},
        {"clip": 0.0},
        {"clicks": {"kinds": ["click"]}},
        {"unknown": 1},
    ],
)
def test_settings_that_are_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AnalysisSettings(**{**ARMS, **wrong})
