"""GrowthBook's hash: who is in which part of an experiment. Pure functions of text, as its SDKs compute them.

Over UTF-16 code units, as in its JavaScript SDK and, since version 4, in its Python SDK (which had code points before:
other hashes for characters beyond the Basic Multilingual Plane). Formulas: docs.growthbook.io, "Build your own SDK".
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

_OFFSET, _PRIME, _MASK = 0x811C9DC5, 0x01000193, 0xFFFFFFFF

_SHORT = 40
"""Characters up to which a hash that grows with every one of them is cheaper than masking each time."""

_VALUES = [at / 10000 for at in range(10000)]


def fnv1a32(text: str, start: int = _OFFSET) -> int:
    """32-bit FNV-1a over the UTF-16 units of ``text``, going on from the hash of what came before it."""
    value = start
    units = text.encode() if text.isascii() else memoryview(text.encode("utf-16-le", "surrogatepass")).cast("H")
    if len(units) > _SHORT:
        for unit in units:
            value = (value ^ unit) * _PRIME & _MASK
        return value
    for unit in units:
        value = (value ^ unit) * _PRIME
    return value & _MASK  # higher bits never reach lower ones


def second_hash(seed: int, unit: str) -> float:
    """The hash of a unit, in [0, 1) in steps of 0.0001: GrowthBook's ``hash(text, unit, version=2)``, where ``seed`` is
    ``fnv1a32(text)``: one seed serves many units."""
    return fnv1a32(str(fnv1a32(unit, seed))) % 10000 / 10000


def layer_seed(layer: str) -> str:
    """The seed of the hash that says where among a layer's slots a unit lies.

    Not GrowthBook's for namespaces: its version 1 hashes the name last, so that names which differ in their last
    character give the same order of units, only shifted, and two layers would exclude or cover each other.
    """
    return "__" + layer


def buckets_between(start: float, end: float) -> int:
    """The number of values of ``second_hash``, 10,000 in all, in [start, end)."""
    return bisect_left(_VALUES, end) - bisect_left(_VALUES, start)


def bucket_ranges(coverage: float, weights: Sequence[float]) -> list[tuple[float, float]]:
    """[from, to) of each arm: GrowthBook's ``getBucketRanges``. With more coverage every range only grows at its end,
    so nobody moves. ``weights`` are relative."""
    total = sum(weights)
    ranges, at = [], 0.0
    for weight in weights:
        share = weight / total
        ranges.append((at, at + coverage * share))
        at += share
    return ranges
