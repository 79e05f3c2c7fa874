"""Statistics of items and users before each log row, and at the end of a period: what came earlier, and how much of it
lately."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.contract.arrays import BoolArray, FloatArray, IntArray
from models.contract.items import Recent, item_statistics
from models.contract.schema import FeatureSchema
from offline.data.log import InteractionLog

_STRETCH = 200
"""Half-lives that are summed at once."""


def running_statistics(
    schema: FeatureSchema, log: InteractionLog, owner: npt.NDArray[np.int32], until: int
) -> FloatArray:
    """Statistics [n, N] for every log row: over earlier log rows of the same ``owner`` [n], such as ``log.item``, that
    lie before ``until``. Drawn negatives are nobody's interactions and do not count."""
    counted = (np.arange(len(log)) < until) & ~log.sampled
    order = np.lexsort((np.arange(len(log)), owner))
    owner = owner[order]
    starts = np.flatnonzero(np.concatenate([[True], owner[1:] != owner[:-1]]))
    sizes = np.diff(np.concatenate([starts, [len(log)]]))
    columns: list[npt.NDArray[np.float64]] = []
    for values in (np.ones(len(log)), log.value.astype(np.float64), log.value > schema.liked_above):
        ordered = np.where(counted, values, 0.0)[order]
        running = np.cumsum(ordered) - ordered
        running -= np.repeat(running[starts], sizes)
        column = np.empty(len(log))
        column[order] = running
        columns.append(column)
    count, value_sum, liked = columns
    if not len(schema.half_lives_ms) or not counted.any():
        return item_statistics(schema, count, value_sum, liked)
    clock = _clock(log, counted)
    recent = Recent(
        _forgetting_counts(schema, log, counted, clock, order, starts, sizes),
        _forgetting_totals(schema, log, counted, clock),
        (np.cumsum(counted) - counted).astype(np.float64),
    )
    return item_statistics(schema, count, value_sum, liked, recent)


def _clock(log: InteractionLog, counted: BoolArray) -> npt.NDArray[np.float64]:
    """The time [n] at each log row, of the last row before that was ``counted`` [n]: the clock stands still with what
    is counted."""
    time_ms = log.time_ms.astype(np.float64)
    last_counted = np.maximum(np.cumsum(counted), 1) - 1
    return np.concatenate([time_ms[:1], time_ms[np.flatnonzero(counted)[last_counted]][:-1]])


def _forgetting_totals(
    schema: FeatureSchema, log: InteractionLog, counted: BoolArray, clock: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Counts [n, K] of all that was ``counted`` before each log row, halved in each half-life, at the time of the
    clock. Summed in stretches of so many half-lives, over which the weights stay within what a number can hold."""
    now, time_ms = np.maximum.accumulate(clock), log.time_ms.astype(np.float64)
    totals = np.zeros((len(log), len(schema.half_lives_ms)))
    for column, half_life in enumerate(schema.half_lives_ms):
        stretch, carried, carried_at = np.floor((now - now[0]) / (_STRETCH * half_life)), 0.0, now[0]
        for rows in np.split(np.arange(len(log)), np.flatnonzero(np.diff(stretch)) + 1):
            origin = now[rows[0]]
            carried *= np.exp2((carried_at - origin) / half_life)
            weights = np.where(counted[rows], np.exp2((time_ms[rows] - origin) / half_life), 0.0)
            summed = carried + np.cumsum(weights)
            totals[rows, column] = (summed - weights) * np.exp2((origin - now[rows]) / half_life)
            carried, carried_at = float(summed[-1]), origin
    return totals


def _forgetting_counts(
    schema: FeatureSchema,
    log: InteractionLog,
    counted: BoolArray,
    clock: npt.NDArray[np.float64],
    order: IntArray,
    starts: IntArray,
    sizes: IntArray,
) -> npt.NDArray[np.float64]:
    """Counts [n, K] of what was ``counted`` [n] before each log row, of the row's owner, halved in each half-life, at
    the time of the ``clock`` [n]. ``order`` [n] has rows of one owner together: those of the k-th begin at
    ``starts[k]`` and are ``sizes[k]``."""
    half_lives = schema.half_lives_ms
    counts = np.zeros((len(log), len(half_lives)))
    time_ms, before = log.time_ms.astype(np.float64), clock
    largest = np.argsort(-sizes, kind="stable")
    starts, sizes = starts[largest], sizes[largest]
    state, last = np.zeros((len(starts), len(half_lives))), time_ms[order[starts]]
    for place in range(int(sizes.max(initial=0))):  # of all owners at once
        owners = int(np.searchsorted(-sizes, -place))
        rows = order[starts[:owners] + place]
        counts[rows] = _forget(state, last, before[rows], half_lives)
        _forget(state, last, np.where(counted[rows], time_ms[rows], before[rows]), half_lives)
        state[:owners] += counted[rows, None]
    return counts


def _forget(
    state: npt.NDArray[np.float64],
    last: npt.NDArray[np.float64],
    now: npt.NDArray[np.float64],
    half_lives: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Let the first n counts of ``state`` [.., K] forget from their ``last`` times [..] to ``now`` [n], in place, and
    return them. What arrived late turns no clock back."""
    n = len(now)
    later = np.maximum(now, last[:n])
    state[:n] *= np.exp2((last[:n] - later)[:, None] / half_lives)
    last[:n] = later
    return state[:n]


def statistics_until(schema: FeatureSchema, log: InteractionLog, until: int) -> FloatArray:
    """Item statistics [items, N] over all log rows before ``until`` but drawn negatives, at the time of the
    last."""
    n = len(log.item_ids)
    rows = log.observed[log.observed < until]
    item, value = log.item[rows], log.value[rows].astype(np.float64)
    ago = log.time_ms[rows[-1:]] - log.time_ms[rows]
    recent = [
        np.bincount(item, weights=np.exp2(-np.maximum(ago, 0) / half_life), minlength=n)
        for half_life in schema.half_lives_ms
    ]
    of_items = np.stack(recent, axis=1).astype(np.float64) if recent else np.zeros((n, 0), np.float64)
    return item_statistics(
        schema,
        np.bincount(item, minlength=n),
        np.bincount(item, weights=value, minlength=n),
        np.bincount(item, weights=(value > schema.liked_above).astype(np.float64), minlength=n),
        Recent(of_items, of_items.sum(0, keepdims=True), np.full(n, len(rows), np.float64)),
    )
