"""The analysis of one experiment, from its two tables to everything that a report shows, in frozen values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import polars as pl

from offline.ab import attribution, mismatch
from offline.ab.attribution import AttributionCounts
from offline.ab.cautions import cautions
from offline.ab.effects import Effect, effects, past_sums
from offline.ab.inputs import ANALYSED, DAY_MS, AnalysisSettings, check_table
from offline.ab.interleaving import Interleaving, interleaving
from offline.ab.metrics import ArmSums, arm_sums, request_sums, unit_history
from offline.ab.mismatch import Breakdown, MultipleExposure, Ratio
from offline.ab.offpolicy import OffPolicy, off_policy

_SOME = 0.01  # a share of an arm's requests that is no accident any more
_JSON_NAMES = {"interim": "looks", "disjoint_arms": "apart"}
"""Keys of the document that differ from the fields' names: readers of earlier documents find them."""


@dataclass(frozen=True, slots=True)
class ExposureCounts:
    """Numbers of exposures by their fate; ``analysed`` and what follows add up to ``rows``. ``left_out`` are those not
    split, by how the unit came into its arm; ``several_arms`` those of units seen in more than one arm."""

    rows: int
    analysed: int
    replayed: int
    before_start: int
    several_arms: int
    left_out: dict[str, int]


@dataclass(frozen=True, slots=True)
class ArmCounts:
    """Numbers of one arm as analysed, which is ``weight`` of the configured split (a share of 1)."""

    arm: str
    weight: float
    units: int
    requests: int
    shown: int
    clicks: int


@dataclass(frozen=True, slots=True)
class Analysis:
    """All that is known of one experiment. Read ``warnings`` and ``ratio`` before ``effects``."""

    control: str
    alpha: float
    start_ms: int
    first_ms: int
    last_ms: int
    exposures: ExposureCounts
    arms: tuple[ArmCounts, ...]
    ratio: Ratio
    breakdowns: tuple[Breakdown, ...]
    multiple: MultipleExposure
    attribution: AttributionCounts
    effects: tuple[Effect, ...]
    interleaving: dict[str, Interleaving]
    off_policy: tuple[OffPolicy, ...]
    settings: dict[str, Any]
    warnings: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """The analysis as JSON: lists for tuples, null for numbers that are not finite, some fields by older names."""

        def renamed(fields: list[tuple[str, Any]]) -> dict[str, Any]:
            return {_JSON_NAMES.get(name, name): value for name, value in fields}

        return {name: _plain(value) for name, value in asdict(self, dict_factory=renamed).items()}


def analyse(
    exposures: pl.DataFrame, interactions: pl.DataFrame, settings: AnalysisSettings, elsewhere: pl.Series | None = None
) -> Analysis:
    """The analysis of one experiment's tables (offline/ab/inputs.py), rows in any order. ValueError if they are not
    such tables, or hold nothing to analyse. An arm that ``settings.weights`` does not name has weight 0; ``elsewhere``
    are the request ids of exposures outside the experiment, whose clicks are none of its."""
    logged, interactions = check_table("exposures", exposures), check_table("interactions", interactions)
    requests = attribution.first_of_requests(logged)
    split = requests.filter(pl.col("how").is_in(ANALYSED))
    if not split.height:
        raise ValueError("no exposure of a unit that was split: nothing to analyse")
    gone = sorted(set(split["arm"].unique()) - set(settings.weights))
    settings = settings.model_copy(update={"weights": settings.weights | dict.fromkeys(gone, 0.0)})
    start = int(split["time_ms"].min()) if settings.start_ms is None else settings.start_ms  # type: ignore[arg-type]
    current = split.filter(pl.col("time_ms") >= start)
    analysed, multiple = mismatch.multiple_exposure(current, settings.listed)
    if not analysed.height:
        raise ValueError("no unit was in one arm only since the start: nothing to analyse")
    attributed = attribution.attribute(
        requests, interactions, settings.clicks, settings.window_ms, start, settings.without_request, elsewhere
    )
    clicks = attributed.clicks.join(analysed, on="request_id", how="semi")
    length = None if settings.pre_period_days is None else round(settings.pre_period_days * DAY_MS)
    history = unit_history(interactions, settings.clicks, start, length)
    sums = arm_sums(request_sums(analysed, clicks), history)
    interleaved, off_policies, problems = _within_arms(analysed, clicks, settings)
    analysis = Analysis(
        control=settings.control,
        alpha=settings.alpha,
        start_ms=start,
        first_ms=int(analysed["time_ms"].min()),  # type: ignore[arg-type]
        last_ms=int(analysed["time_ms"].max()),  # type: ignore[arg-type]
        exposures=_exposure_counts(logged, requests, split, current, analysed),
        arms=_arm_counts(sums, settings.weights),
        ratio=mismatch.split_ratio(mismatch.first_split(analysed), settings.weights),
        breakdowns=tuple(mismatch.breakdown(analysed, name, settings.weights) for name in settings.breakdowns),
        multiple=multiple,
        attribution=attributed.counts,
        effects=effects(sums, past_sums(analysed, clicks, history, settings.interim_analyses), settings),
        interleaving=interleaved,
        off_policy=off_policies,
        settings=settings.model_dump(mode="json", by_alias=True),
        warnings=(),
    )
    return replace(analysis, warnings=(*cautions(analysis), *_about_arms(analysed, gone), *problems))


def _about_arms(analysed: pl.DataFrame, gone: list[str]) -> list[str]:
    """Warnings about arms that are not as the file says."""
    texts = [f"Arm {arm!r} is not in the file any more." for arm in gone]
    away = pl.col("degraded").list.contains("not_pinned").fill_null(False)
    for arm, share in analysed.group_by("arm").agg(away.mean()).sort("arm").iter_rows():
        if share > _SOME:
            texts.append(f"{share:.1%} of the requests of arm {arm!r} missed a pinned release: the live one answered.")
    return texts


def _exposure_counts(
    logged: pl.DataFrame, requests: pl.DataFrame, split: pl.DataFrame, current: pl.DataFrame, analysed: pl.DataFrame
) -> ExposureCounts:
    how = pl.col("how").fill_null("")
    left_out = requests.filter(~how.is_in(ANALYSED)).group_by(how).len()
    return ExposureCounts(
        rows=logged.height,
        analysed=analysed.height,
        replayed=logged.height - requests.height,
        before_start=split.height - current.height,
        several_arms=current.height - analysed.height,
        left_out=dict(sorted(left_out.iter_rows())),
    )


def _arm_counts(sums: Mapping[str, ArmSums], weights: Mapping[str, float]) -> tuple[ArmCounts, ...]:
    total = sum(weights.values())
    counts = {
        arm: (of_arm.units, *(int(column.sum()) for column in (of_arm.requests, of_arm.shown, of_arm.clicks)))
        for arm, of_arm in sums.items()
    }
    return tuple(
        ArmCounts(arm, weight / total if total else 0.0, *counts.get(arm, (0, 0, 0, 0)))
        for arm, weight in weights.items()
    )


def _within_arms(
    exposures: pl.DataFrame, clicks: pl.DataFrame, settings: AnalysisSettings
) -> tuple[dict[str, Interleaving], tuple[OffPolicy, ...], list[str]]:
    """Interleaving and off-policy values of the arms that have them, and why others have not."""
    interleaved: dict[str, Interleaving] = {}
    drawn: list[OffPolicy] = []
    problems: list[str] = []
    for arm in settings.weights:
        rows = exposures.filter(pl.col("arm") == arm)
        try:
            if preference := _interleaved(rows, clicks, settings):
                interleaved[arm] = preference
            if value := off_policy(rows, clicks, arm, settings.clip, settings.alpha):
                drawn.append(value)
        except ValueError as error:
            problems.append(f"Arm {arm!r}: {error}.")
    return interleaved, tuple(drawn), problems


def _interleaved(rows: pl.DataFrame, clicks: pl.DataFrame, settings: AnalysisSettings) -> Interleaving | None:
    """The preference in the requests of one arm that have teams; the control's team, if it is one of them, is the
    second."""
    rows = rows.filter(pl.col("teams").list.len() > 0)
    names = set(rows["teams"].explode().drop_nulls().unique().to_list()) - {""}
    if not names:
        return None
    if len(names) != 2:
        raise ValueError(f"interleaving takes two teams, not {', '.join(sorted(names))}")
    first, second = sorted(names, key=lambda name: (name == settings.control, name))
    return interleaving(rows, clicks, first, second, settings.alpha)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
