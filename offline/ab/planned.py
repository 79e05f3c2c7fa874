"""How an experiment is analysed, from the file that the service splits by."""

from __future__ import annotations

from collections.abc import Iterable

from models.contract.experiments import ExperimentsFile
from offline.ab.settings import AnalysisSettings, ClickRule
from offline.data.catalogue import DataError

HOUR_MS = 3_600_000


def settings_of(
    file: ExperimentsFile,
    name: str,
    window_hours: float = 24.0,
    clicks: Iterable[str] = (),
    least_value: float | None = None,
    planned_units: int = 10_000,
) -> AnalysisSettings:
    """Settings of the experiment ``name``; its first arm is the control. DataError if the file has no such one."""
    known = {one.name: one for layer in file.layers for one in layer.experiments}
    if name not in known:
        there = ", ".join(sorted(known)) or "none at all"
        raise DataError(f"the experiments file has no experiment {name!r}; it has {there}")
    experiment = known[name]
    return AnalysisSettings(
        control=experiment.arms[0].name,
        weights={arm.name: arm.weight for arm in experiment.arms},
        clicks=ClickRule(types=frozenset(clicks), least_value=least_value),
        window_ms=round(window_hours * HOUR_MS),
        start_ms=None if experiment.start is None else round(experiment.start.timestamp() * 1000),
        planned_units=planned_units,
    )
