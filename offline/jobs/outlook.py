"""Facts on what a configuration will make of its data, before anything is computed or paid, for `validate`.

Nothing here asks a language model or encodes a text; how long that will take is measured by ``Rates``.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from models.contract.arrays import IntArray
from offline.config import JobConfig
from offline.data.activity import Activity
from offline.data.catalogue import Catalogue
from offline.data.languages.english import ENGLISH
from offline.data.log import InteractionLog
from offline.data.rules import Findings, counted
from offline.knowledge.config import LiberConfig
from offline.knowledge.knowledge_texts import closing
from offline.knowledge.liber.partitions import Partitions, close_partitions
from offline.knowledge.run import producers_of
from offline.training.samples import SplitRows

_FEW_ROWS = 0.3
"""Share of interactions that become samples below which the configuration is worth a look."""
_FEW_USERS = 0.05
"""Share of users with knowledge of their own below which that feature is as good as off."""
_MANY_UNSEEN = 0.5


def outlook(config: JobConfig, catalogue: Catalogue, log: InteractionLog, splits: SplitRows) -> Findings:
    """Facts and warnings on a log, whose samples are ``splits``."""
    result, observed = Findings(), log.observed
    timed = config.data.timed
    result.facts.append(_period(log.time_ms[observed]) if timed else "no times: the order of the rows stands for them")
    per_user = np.bincount(log.user[observed], minlength=len(log.user_ids))
    _samples(config, log, splits, per_user, result)
    partitions = close_partitions(log, config.knowledge.liber.trigger)
    if {"liber", "autograph", "marc"} & set(producers_of(config.feature_schema)):
        _coverage(config.knowledge.liber, partitions, per_user, result)
    if not config.feature_schema.user_knowledge:
        result.facts.append(_without_user_knowledge(config))
    result.facts.append(_memory(config, catalogue, log, partitions))
    return result


def _period(times: IntArray) -> str:
    first, last = (datetime.fromtimestamp(int(at) / 1000, UTC) for at in (times.min(), times.max()))
    return f"period: {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC, {counted((last - first).days, 'day')}"


def _samples(config: JobConfig, log: InteractionLog, splits: SplitRows, per_user: IntArray, result: Findings) -> None:
    """The interactions and users that samples use, and test samples of what training has not seen."""
    least = config.samples.min_history
    rows = np.concatenate(list(splits.rows.values()))
    of_rows = float((~log.sampled[rows]).sum() / len(log.observed))
    activity = Activity(per_user[per_user > 0])
    of_users = activity.covered(least + 1)
    sizes = ", ".join(f"{len(of_part):,} {part}" for part, of_part in splits.rows.items())
    drawn = int(log.sampled[rows].sum())
    negatives = f", {drawn:,} of them drawn negatives" if drawn else ""
    result.facts.append(
        f"samples, which models learn from and are tested on: {sizes}{negatives}; interactions with {least} or more "
        f"earlier ones of their user (samples.min_history): {of_rows:.0%} of all, of {of_users:.0%} of the users"
        f"{splits.note}"
    )
    if of_rows < _FEW_ROWS and least:
        better = activity.min_history
        result.warnings.append(
            f"min_history = {least} leaves {of_rows:.0%} of the interactions as samples; min_history = {better} leaves "
            f"{activity.used(better):.0%}"
        )
    seen_items = np.bincount(log.item[: splits.trained_rows], minlength=len(log.item_ids)) > 0
    seen_users = np.bincount(log.user[: splits.trained_rows], minlength=len(log.user_ids)) > 0
    test = splits.rows["test"][~log.sampled[splits.rows["test"]]]
    if not len(test):
        return
    items, users = (
        float(np.mean(~seen[column[test]])) for seen, column in ((seen_items, log.item), (seen_users, log.user))
    )
    result.facts.append(
        f"of the test samples, {items:.0%} are of items and {users:.0%} of users that training never saw"
    )
    if items > _MANY_UNSEEN:
        result.warnings.append(
            f"{items:.0%} of the test samples are of items that training never saw: their texts matter most"
        )


def _coverage(config: LiberConfig, partitions: Partitions, per_user: IntArray, result: Findings) -> None:
    """Users with a closed partition: of nobody else does the language model write."""
    active = per_user > 0
    covered = int((np.diff(partitions.start)[active] > 0).sum())
    share = covered / int(active.sum())
    result.facts.append(
        f"users of whom the language model writes: {covered:,} of {active.sum():,} ({share:.0%}); a summary of every "
        f"{closing(config.trigger)} of a user (a partition), {len(partitions):,} so far"
    )
    if share < _FEW_USERS:
        activity = Activity(per_user[active])
        size = activity.partition_size
        result.warnings.append(
            f"knowledge of users is as good as off: {covered:,} of {active.sum():,} users have the "
            f"{closing(config.trigger)} that a summary needs; partition_size = {size} would cover "
            f"{activity.covered(size):.0%} with {activity.partitions(size):,} summaries"
        )


def _without_user_knowledge(config: JobConfig) -> str:
    """That nothing is known of users but what they did, and what would change it."""
    is_packaged = config.llm.backend == "local" and config.llm.model is None
    needs = ""
    if is_packaged and config.data.texts.spoken is not ENGLISH:
        needs = ", with an [llm] that writes the language of the texts (the packaged model writes English alone)"
    return (
        "users have no knowledge beyond their histories: no producer in feature_schema.knowledge makes any; liber "
        f'(side = "user") would{needs}'
    )


def _memory(config: JobConfig, catalogue: Catalogue, log: InteractionLog, partitions: Partitions) -> str:
    """Rough sizes: of what the jobs hold at once, and of what Redis holds."""
    width, texts = 384, len(log.item_ids) + 2 * len(partitions)
    jobs = len(log) * 120 + texts * width * 8 + len(log.item_ids) * (config.feature_schema.item_width * 4 + 600)
    users = len(log.user_ids)
    events = min(config.publish.history_max_events, max(1, len(log.observed) // max(1, users)))
    of_user = (
        sum(128 + 2 * spec.rows * spec.dim for spec in config.feature_schema.user_knowledge) + 190 + 90 + 24 * events
    )
    of_item = sum(128 + 2 * spec.dim for spec in config.feature_schema.item_knowledge) + 110
    redis = users * of_user + len(catalogue.items) * of_item * config.publish.keep_releases
    return f"memory, roughly: {_size(1.5e9 + jobs)} for a job (libraries take 1.5 GB of it), {_size(redis)} in Redis"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.{0 if count >= 1e7 else 1}f} MB"
