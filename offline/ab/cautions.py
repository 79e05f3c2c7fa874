"""Warnings that a reader of an analysis must know before believing it, as sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from offline.ab.metrics import METRICS

if TYPE_CHECKING:
    from offline.ab.analysis import Analysis

_FEW_UNITS = 100  # below that, intervals that rest on a normal limit are rough
_SOME = 0.01  # a share of clicks or units that is no accident any more


def cautions(analysis: Analysis) -> tuple[str, ...]:
    """Sentences, gravest first; none if there is nothing to say."""
    return (*_split(analysis), *_clicks(analysis), *_effects(analysis), *_off_policy(analysis))


def _split(analysis: Analysis) -> Iterator[str]:
    if analysis.ratio.alarm:
        ratio = analysis.ratio
        pairs = ", ".join(f"{arm} {units} (expected {ratio.expected[arm]:.0f})" for arm, units in ratio.units.items())
        yield f"Sample ratio mismatch, p = {ratio.p:.1e}: {pairs}. Units got lost; do not read the effects."
    for breakdown in analysis.breakdowns:
        guilty = [f"{part.value} (p = {part.p_holm:.1e})" for part in breakdown.slices if part.alarm]
        if guilty:
            yield f"Sample ratio mismatch by {breakdown.dimension}: {', '.join(guilty)}."
        if breakdown.disjoint_arms:
            arms = ", ".join(breakdown.disjoint_arms)
            name = breakdown.dimension
            yield f"No {name} of {arms} was seen in another arm: it says nothing of their share of the split."
    if (several := analysis.multiple).units:
        yield (
            f"{several.units} units ({several.share:.2%}) were seen in more than one arm and are left out"
            f" with their {analysis.exposures.several_arms} exposures."
        )
    if unread := analysis.exposures.left_out.get("unread"):
        yield f"{unread} exposures are left out because the arm that was kept for their unit could not be read."


def _clicks(analysis: Analysis) -> Iterator[str]:
    counts = analysis.attribution
    clicks = counts.interactions - counts.no_click - counts.before - counts.elsewhere
    if not counts.attributed:
        yield f"No click could be attributed, of {clicks}."
    reasons = {
        "came after the window": counts.late,
        "came before their exposure (clocks that differ?)": counts.early,
        "name a request that was not exposed": counts.unknown_request,
        "are of an item that their request did not show": counts.not_shown,
        "name no request": counts.no_request,
        "are of another unit than the one exposed, and are counted for that one": counts.other_unit,
    }
    for reason, count in reasons.items():
        if count > _SOME * clicks:
            yield f"{count} of {clicks} clicks ({count / clicks:.1%}) {reason}."


def _effects(analysis: Analysis) -> Iterator[str]:
    for arm in analysis.arms:
        if arm.units < 2:
            yield f"Arm {arm.arm!r} has {arm.units} units: it cannot be compared."
        elif arm.units < _FEW_UNITS:
            yield f"Arm {arm.arm!r} has only {arm.units} units: its intervals are rough."
    comparable = {arm.arm for arm in analysis.arms if arm.units > 1}
    for metric in METRICS:
        measured = {effect.arm for effect in analysis.effects if effect.metric == metric.name}
        if missing := sorted(comparable - measured - {analysis.control}):
            yield f"There is nothing to measure {metric.name} by in control and {', '.join(missing)}."


def _off_policy(analysis: Analysis) -> Iterator[str]:
    for arm in analysis.off_policy:
        if arm.left_out:
            yield (
                f"Arm {arm.arm!r}: {arm.left_out} requests are left out of the off-policy values, because they lack"
                f' shadow scores of all candidates (log = "all" has those of candidates that were not shown).'
            )
        for value in arm.values:
            if value.estimator == "IPS" and not value.clipped_share and abs(value.mean_weight - 1) > 0.1:
                yield (
                    f"Arm {arm.arm!r}: importance weights average {value.mean_weight:.2f} instead of 1, so the shadow"
                    f" policy takes actions that the log hardly has."
                )
            if value.estimator == "IPS" and value.effective_rows < _FEW_UNITS:
                yield f"Arm {arm.arm!r}: off-policy values rest on {value.effective_rows:.0f} effective requests."
