"""Rows of interactions that repeat a user and an item: which of them counts."""

from __future__ import annotations

from typing import Literal

import polars as pl

PAIR = ("user", "item")


def single_pairs(frame: pl.DataFrame, chosen: Literal["first", "last", "most_common"]) -> pl.DataFrame:
    """One row for each user and item of a frame (user, item, value, time_ms, part, ..), in the frame's order.

    Rows count in order of part and time, and of the frame where those are equal. "most_common": the last row of the
    value that the pair has most often; of two such values, of the one that came last.
    """
    order = ["part", "time_ms", "place"]
    placed = frame.with_row_index("place")
    if chosen == "most_common":
        placed = placed.with_columns(votes=pl.len().over(*PAIR, "value"))
        order = ["votes", *order]
    rows = placed.sort(order).unique(PAIR, keep="first" if chosen == "first" else "last", maintain_order=True)
    return rows.sort("place").select(frame.columns)
