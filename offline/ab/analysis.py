"""The analysis of one experiment, from its two tables to everything that a report shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from offline.ab import attribution, mismatch
from offline.ab.cautions import cautions
from offline.ab.effects import effects, past_sums
from offline.ab.findings import Analysis, ArmCounts, ExposureCounts
from offline.ab.interleaving import Interleaving, interleaving
from offline.ab.metrics import ArmSums, arm_sums, request_sums, unit_history
from offline.ab.settings import ANALYSED, DAY_MS, AnalysisSettings
from offline.ab.shadow import OffPolicy, off_policy
from offline.ab.tables import exposures_table, interactions_table

_SOME = 0.01  # a share of an arm's requests that is no accident any more


def analyse(
    exposures: pl.DataFrame, interactions: pl.DataFrame, settings: AnalysisSettings, elsewhere: pl.Series | None = None
) -> Analysis:
    """Of one experiment's tables (offline/ab/tables.py), rows in any order. ValueError if they are not such
    tables, or hold nothing to analyse. An arm that ``settings.weights`` does not name has weight 0; ``elsewhere`` are
    the request ids of exposures outside the experiment, whose clicks are none of its."""
    logged, interactions = exposures_table(exposures), interactions_table(interactions)
    requests = attribution.once(logged)
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
    found = Analysis(
        control=settings.control,
        alpha=settings.alpha,
        start_ms=start,
        first_ms=int(analysed["time_ms"].min()),  # type: ignore[arg-type]
        last_ms=int(analysed["time_ms"].max()),  # type: ignore[arg-type]
        exposures=_exposure_counts(logged, requests, split, current, analysed),
        arms=_arm_counts(sums, settings.weights),
        ratio=mismatch.split_ratio(mismatch.first_split(analysed), settings.weights),
        breakdowns=tuple(mismatch.breakdown(analysed, one, settings.weights) for one in settings.breakdowns),
        multiple=multiple,
        attribution=attributed.counts,
        effects=effects(sums, past_sums(analysed, clicks, history, settings.looks), settings),
        interleaving=interleaved,
        off_policy=off_policies,
        settings=settings.model_dump(mode="json"),
        warnings=(),
    )
    return replace(found, warnings=(*cautions(found), *_about_arms(analysed, gone), *problems))


def _about_arms(analysed: pl.DataFrame, gone: list[str]) -> list[str]:
    """What to know of arms that are not what the file says."""
    found = [f"Arm {arm!r} is not in the file any more." for arm in gone]
    away = pl.col("degraded").list.contains("not_pinned").fill_null(False)
    for arm, share in analysed.group_by("arm").agg(away.mean()).sort("arm").iter_rows():
        if share > _SOME:
            found.append(f"{share:.1%} of the requests of arm {arm!r} missed a pinned release: the live one answered.")
    return found


def _exposure_counts(
    logged: pl.DataFrame, requests: pl.DataFrame, split: pl.DataFrame, current: pl.DataFrame, analysed: pl.DataFrame
) -> ExposureCounts:
    left_out = (
        requests.filter(~pl.col("how").is_in(ANALYSED).fill_null(False)).group_by(pl.col("how").fill_null("")).len()
    )
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
    return tuple(
        ArmCounts(
            arm=arm,
            weight=weight / total if total else 0.0,
            units=one.units if one else 0,
            requests=int(one.requests.sum()) if one else 0,
            shown=int(one.shown.sum()) if one else 0,
            clicks=int(one.clicks.sum()) if one else 0,
        )
        for arm, weight in weights.items()
        for one in [sums.get(arm)]
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
            if found := _interleaved(rows, clicks, settings):
                interleaved[arm] = found
            if value := off_policy(rows, clicks, arm, settings.clip, settings.alpha):
                drawn.append(value)
        except ValueError as error:
            problems.append(f"Arm {arm!r}: {error}.")
    return interleaved, tuple(drawn), problems


def _interleaved(rows: pl.DataFrame, clicks: pl.DataFrame, settings: AnalysisSettings) -> Interleaving | None:
    """Of the requests of one arm that have teams; the control's team, if it is one of them, is the second."""
    rows = rows.filter(pl.col("teams").list.len() > 0)
    names = set(rows["teams"].explode().drop_nulls().unique().to_list()) - {""}
    if not names:
        return None
    if len(names) != 2:
        raise ValueError(f"interleaving takes two teams, not {', '.join(sorted(names))}")
    first, second = sorted(names, key=lambda name: (name == settings.control, name))
    return interleaving(rows, clicks, first, second, settings.alpha)
