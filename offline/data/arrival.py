"""Arrival of interactions in the log: the first load, the service's stream, and files that have grown since.

The only place where the kinds of labels differ: implicit feedback gets drawn negatives as it arrives. A draw for a
positive at log row r knows the rows before r and nothing else: it takes an item that had appeared by then, with the
weight that it had by then, and that this user had not touched by then. What the user does later is not held against an
item; excluding it would tell the model the future.

The first negative of a positive that repeats an item of its user is one of the user's other earlier items, all alike.
If none were, "this user had it before" would always mean a positive, and which repeat is due could not be learned.

Draws depend on the seed and on the number of the positive among the observed rows, not on how the log was delivered, so
that the same stream makes the same log.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
import numpy.typing as npt

from models.contract.arrays import BoolArray, IntArray
from models.contract.events import Interaction
from models.contract.ids import NOBODY, is_nobody
from models.contract.schema import FeatureSchema
from models.contract.times import EARLIEST_MS, latest_ms
from offline.data.catalogue import Catalogue, DataError
from offline.data.config import LabelsConfig
from offline.data.dataset import Dataset
from offline.data.log import InteractionLog
from offline.data.rules import Findings

_ROUNDS = 32
"""Draws per negative before all that is left is enumerated: rare, for users who have touched nearly everything."""


Forbids = Callable[[str, int], bool]
"""Whether what happened with a user at a time (unix ms) must not be stored, because they are forgotten."""

OF_FORGOTTEN = "of users who are forgotten"
"""The reason for which what ``Forbids`` says of is left out."""

_REPEATS = 1_000_000
"""Number of the stream of random numbers for repeats, beyond those of any slot and attempt."""


def first_log(source: Dataset, catalogue: Catalogue, labels: LabelsConfig, schema: FeatureSchema) -> InteractionLog:
    """The log of a data set. DataError names every rule that the data break."""
    return append_new(InteractionLog.empty(), source, catalogue, labels, schema)[0]


def append_new(
    log: InteractionLog,
    source: Dataset,
    catalogue: Catalogue,
    labels: LabelsConfig,
    schema: FeatureSchema,
    findings: Findings | None = None,
    forbids: Forbids | None = None,
) -> tuple[InteractionLog, int]:
    """The log with the source's interactions that are new to it, and their number; ``findings`` are those of the
    source's check, if it was checked already. What ``forbids`` says of is left out. DataError as above.

    Users and items that are new in the catalogue get their numbers even if nobody has interacted yet. Rows that
    have vanished from the source stay in the log.
    """
    findings = findings or source.check(schema)
    findings.raise_if_broken()
    if len(log) and source.brings_parts != (log.part_ends is not None):
        raise DataError(
            "the log of interactions was loaded with another kind of split: move the work folder's log away, and the "
            "next refresh loads it anew"
        )
    rows: Iterable[tuple[str, str, float, int]] = source.interactions(findings.left_out)
    parts = source.parts(findings.left_out)
    if forbids is not None:
        every = list(rows)
        allowed = np.array([not forbids(user, time_ms) for user, _, _, time_ms in every], np.bool_)
        rows, parts = compress(every, allowed), None if parts is None else parts[allowed]
    grown, added = log.with_rows(rows, list(catalogue.users), list(catalogue.items), parts)
    if source.leaves_last_out and not len(log):
        grown = grown.leaving_last_out()
    return draw_negatives(labels, grown, schema.liked_above, len(log)), added


def append_streamed(
    log: InteractionLog,
    entries: Sequence[Interaction],
    mark: str,
    labels: LabelsConfig,
    schema: FeatureSchema,
    nobody: Collection[str] = NOBODY,
    forbids: Forbids | None = None,
) -> tuple[InteractionLog, int, Counter[str]]:
    """The log with the service's interactions up to the stream entry ``mark``; how many were new, and how many were
    left out, by reason, those that ``forbids`` says of among them."""
    left_out, latest = Counter[str](), latest_ms(round(time.time() * 1000))
    accepted = []
    for event in entries:
        if reason := _reason(event, schema, nobody, latest):
            left_out[reason] += 1
        elif forbids is not None and forbids(event.user_id, event.time_ms):
            left_out[OF_FORGOTTEN] += 1
        else:
            accepted.append(event)
    grown, added = log.extended(accepted, mark)
    return draw_negatives(labels, grown, schema.liked_above, len(log)).noting_streamed(len(log)), added, left_out


def _reason(event: Interaction, schema: FeatureSchema, nobody: Collection[str], latest: int) -> str:
    """Why an interaction of the stream is no part of the log; empty if it is."""
    if event.type not in schema.history_types:
        return "of another type"
    if is_nobody(event.user_id, nobody) or is_nobody(event.item_id, nobody):
        return "of nobody"
    if event.time_ms < EARLIEST_MS:  # of a service that took seconds for milliseconds
        return "of a time before 1973"
    if event.time_ms > latest:  # of a service whose clock runs ahead
        return "of a time in the future"
    return "" if schema.accepts(event.value) else "of a value out of range"


def draw_negatives(config: LabelsConfig, log: InteractionLog, liked_above: float, from_row: int = 0) -> InteractionLog:
    """The log with drawn negatives right before every positive at ``from_row`` or later; as it is without implicit
    labels. The first rows of a log have none, because nothing had appeared. ValueError if there are drawn rows at
    ``from_row`` or later already."""
    if config.kind != "implicit":
        return log
    if log.sampled[from_row:].any():
        raise ValueError(f"rows from {from_row} on have negatives already")
    past = _Past.of(log)
    positives = np.flatnonzero((log.observed >= from_row) & (log.value[log.observed] > liked_above))
    drawn = np.full((len(positives), config.negatives), -1, np.int64)
    for slot in range(config.negatives):
        if slot == 0:
            drawn[:, 0] = _draw_repeats(config, past, positives)
        open_rows = np.flatnonzero(drawn[:, slot] < 0)
        drawn[open_rows, slot] = _draw(config, past, positives[open_rows], drawn[open_rows, :slot], slot)
    which, of_slot = np.nonzero(drawn >= 0)
    return log.with_sampled(log.observed[positives[which]], drawn[which, of_slot].astype(np.int32))


@dataclass(frozen=True, slots=True)
class _Past:
    """Events before the n-th observed row. ``pairs`` are users' and items' keys, rising, and ``pair_first``
    the row of the first interaction of each; ``items`` are in order of first appearance, at ``item_first``;
    ``first_pairs`` are the pairs by user, and each user's by first interaction."""

    item_count: int
    user: IntArray
    item: IntArray
    pairs: IntArray
    pair_first: IntArray
    items: IntArray
    item_first: IntArray
    first_pairs: IntArray

    @classmethod
    def of(cls, log: InteractionLog) -> _Past:
        user, item = log.user[log.observed].astype(np.int64), log.item[log.observed].astype(np.int64)
        pairs, pair_first = np.unique(user * len(log.item_ids) + item, return_index=True)
        items, item_first = np.unique(item, return_index=True)
        order = np.argsort(item_first)
        first_pairs = np.lexsort((pair_first, pairs // len(log.item_ids)))
        return cls(len(log.item_ids), user, item, pairs, pair_first, items[order], item_first[order], first_pairs)

    def touched(self, rows: IntArray, items: IntArray) -> BoolArray:
        """Whether the user of each observed row has interacted with the item, in that row or before."""
        keys = self.user[rows] * self.item_count + items
        at = np.minimum(np.searchsorted(self.pairs, keys), len(self.pairs) - 1)
        return np.asarray((self.pairs[at] == keys) & (self.pair_first[at] <= rows), np.bool_)


def _draw_repeats(config: LabelsConfig, past: _Past, rows: IntArray) -> IntArray:
    """For each observed row that repeats an item of its user, another item that the user had interacted with before it;
    -1 for the other rows, and where there is none."""
    items = np.full(len(rows), -1, np.int64)
    users = past.pairs[past.first_pairs] // past.item_count
    # A user's pairs in order of their first row: those before row r are a leading part of them.
    order = users * len(past.user) + past.pair_first[past.first_pairs]
    begin = np.searchsorted(order, past.user[rows] * len(past.user))
    earlier = np.searchsorted(order, past.user[rows] * len(past.user) + rows) - begin
    pair = past.user[rows] * past.item_count + past.item[rows]
    own = past.pair_first[np.searchsorted(past.pairs, pair)]
    which = np.flatnonzero((own < rows) & (earlier > 1))
    own_at = np.searchsorted(order, past.user[rows[which]] * len(past.user) + own[which]) - begin[which]
    at = (_dice(config.seed, rows[which], _REPEATS) % (earlier[which] - 1).astype(np.uint64)).astype(np.int64)
    at += at >= own_at
    items[which] = past.pairs[past.first_pairs[begin[which] + at]] % past.item_count
    return items


def _draw(config: LabelsConfig, past: _Past, rows: IntArray, taken: IntArray, slot: int) -> IntArray:
    """One item for each observed row, other than those ``taken`` [rows, earlier slots]; -1 where there is none."""
    items = np.full(len(rows), -1, np.int64)
    appeared = np.searchsorted(past.item_first, rows, "left")
    pending = np.flatnonzero(appeared > 0)
    for attempt in range(_ROUNDS):
        if not len(pending):
            return items
        mine = rows[pending]
        dice = _dice(config.seed, mine, slot * (_ROUNDS + 1) + attempt)
        if config.drawn == "popularity":  # the item of a random earlier row
            drawn = past.item[(dice % mine.astype(np.uint64)).astype(np.int64)]
        else:
            drawn = past.items[(dice % appeared[pending].astype(np.uint64)).astype(np.int64)]
        good = ~past.touched(mine, drawn) & ~(taken[pending] == drawn[:, None]).any(axis=1)
        items[pending[good]] = drawn[good]
        pending = pending[~good]
    for at in pending.tolist():
        left = past.items[: appeared[at]]
        left = left[~past.touched(np.full(len(left), rows[at]), left) & ~np.isin(left, taken[at])]
        if len(left):
            dice = _dice(config.seed, rows[at : at + 1], slot * (_ROUNDS + 1) + _ROUNDS)
            items[at] = left[int(dice[0]) % len(left)]
    return items


def _dice(seed: int, rows: IntArray, stream: int) -> npt.NDArray[np.uint64]:
    """A random 64-bit number per row: SplitMix64 (Steele et al., OOPSLA 2014) of seed, stream and row."""
    base = np.array([(seed * 0x9E3779B97F4A7C15 + stream * 0xD1342543DE82EF95) % 2**64], np.uint64)
    return _mixed(_mixed(base) + rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def _mixed(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
