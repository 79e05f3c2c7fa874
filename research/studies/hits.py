"""Candidates against the items that a user liked next: popular ones, those near a user's vector, those like what it
liked.

Judged on the validation period: a user asks at its end of the training period, with the vectors of that moment, and
what it liked afterwards for the first time is to be among the candidates. The test period is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.contract.arrays import FloatArray, IntArray
from offline.config import JobConfig
from offline.data.log import InteractionLog
from offline.knowledge.vectors import Knowledge
from offline.publish.indexes import roles
from offline.training.samples import split_samples
from research.autograph.matching import mean_of_users
from research.tables import table

TOP_CANDIDATES = 200
SHARES = (0.0, 0.25, 0.5, 0.75)
LIKED_ITEMS = 20
"""As the service takes: service/retrieval/retriever.py."""

Scores = Callable[[int], FloatArray | None]
"""Of all items for a user; None if nothing is known of the user."""


@dataclass(frozen=True, slots=True)
class SourceHits:
    """``share`` [u]: of what each judged user liked next, how much was among the candidates; ``known`` [u]: whether the
    source knew the user, and not only what is popular."""

    name: str
    share: npt.NDArray[np.float64]
    known: npt.NDArray[np.bool_]

    def interval(self, seed: int = 0) -> tuple[float, float]:
        """95 % of the mean, over resampled users."""
        mean = mean_of_users(self.share, seed=seed)
        return mean.low, mean.high


def hits(config: JobConfig, log: InteractionLog, knowledge: Knowledge, top: int = TOP_CANDIDATES) -> list[SourceHits]:
    """Each source alone, and those that know users mixed with popular items in several shares."""
    split = split_samples(config.samples, log)
    until, end = split.trained_rows, int(split.rows["validation"][-1]) + 1
    liked = (log.value > config.feature_schema.liked_above) & ~log.sampled
    seen, later = _by_user(log, np.arange(until), ~log.sampled), _by_user(log, np.arange(until, end), liked)
    users = [user for user, items in later.items() if len(np.setdiff1d(items, seen.get(user, items[:0])))]
    popularity = np.bincount(log.item[:until][liked[:until]], minlength=len(log.item_ids)).astype(np.float32)
    sources = _sources(config, log, knowledge, until, _by_user(log, np.arange(until), liked))
    rows = [_source_hits("popular", lambda _: None, 1.0, popularity, users, seen, later, top)]
    for name, scores in sources.items():
        rows += [
            _source_hits(f"{name}, {share:.0%} popular", scores, share, popularity, users, seen, later, top)
            for share in SHARES
        ]
    return rows


def hits_table(sources: list[SourceHits], top: int = TOP_CANDIDATES) -> str:
    rows = []
    for source in sources:
        low, high = source.interval()
        rows.append([source.name, f"{source.share.mean():.4f} ({low:.4f} to {high:.4f})", f"{source.known.mean():.0%}"])
    share = f"found of what {len(sources[0].share):,} users liked next, top {top}"
    return table(["candidates", share, "users known"], rows)


def _sources(
    config: JobConfig, log: InteractionLog, knowledge: Knowledge, until: int, liked: Mapping[int, IntArray]
) -> dict[str, Scores]:
    spaces = {space.key: space.fingerprint for space in knowledge.spaces}
    space_of = roles(config.retrieval, spaces)
    sources: dict[str, Scores] = {}
    if "matching" in space_of:
        users, items = knowledge.users[space_of["matching"]], knowledge.items[space_of["matching"]].published

        def matching(user: int) -> FloatArray | None:
            seen = int(users.visible(np.array([user]), np.array([until]))[0])
            return None if seen == 0 else np.asarray(items @ users.vectors[users.start[user] + seen - 1])

        sources[f"matching ({space_of['matching']})"] = matching
    if "neighbours" in space_of:
        alike, known = knowledge.items[space_of["neighbours"]].published, knowledge.items[space_of["neighbours"]].known

        def neighbours(user: int) -> FloatArray | None:
            last = liked.get(user, np.zeros(0, np.int64))[-LIKED_ITEMS:]
            last = last[known[last]]
            return np.asarray(alike @ alike[last].mean(axis=0)) if len(last) else None

        sources[f"neighbours ({space_of['neighbours']})"] = neighbours
    return sources


def _source_hits(
    name: str,
    scores: Scores,
    share: float,
    popularity: FloatArray,
    users: list[int],
    seen: Mapping[int, IntArray],
    later: Mapping[int, IntArray],
    top: int,
) -> SourceHits:
    shares, known = np.zeros(len(users)), np.zeros(len(users), np.bool_)
    by_popularity = np.argsort(-popularity, kind="stable")
    personal = top - int(top * share)
    for at, user in enumerate(users):
        before = seen.get(user, np.zeros(0, np.int64))
        own = scores(user)
        known[at] = own is not None
        near = np.zeros(0, np.int64)
        if own is not None:
            own = own.copy()
            own[before] = -np.inf
            near = np.argsort(-own, kind="stable")[:personal]
        popular = by_popularity[~np.isin(by_popularity, np.concatenate([before, near]))]
        candidates = np.concatenate([near, popular[: top - len(near)]])
        shares[at] = np.isin(np.setdiff1d(later[user], before), candidates).mean()
    return SourceHits(name, shares, known)


def _by_user(log: InteractionLog, rows: IntArray, which: npt.NDArray[np.bool_]) -> dict[int, IntArray]:
    """Items of each user in these rows, in their order."""
    rows = rows[which[rows]]
    order = rows[np.argsort(log.user[rows], kind="stable")]
    users, starts = np.unique(log.user[order], return_index=True)
    return {
        int(user): log.item[part].astype(np.int64)
        for user, part in zip(users.tolist(), np.split(order, starts[1:]), strict=True)
    }
