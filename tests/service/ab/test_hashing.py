"""The hash is GrowthBook's: its published cases, and its own Python SDK on thousands of others."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from service.ab.hashing import bucket_ranges, buckets_between, fnv1a32, second_hash

UNITS = ["1", "a", "user-1", "é😀", " ", "0" * 256, *(f"{number:x}" for number in range(0, 10**9, 10**9 // 2000))]
VECTORS = Path(__file__).with_name("vectors.tsv")
SEEDS = ["", "seed", "knowledge-2026-11", "()**(%$##$%#$#", "ü"]


@pytest.mark.parametrize(("text", "value"), [("", 0x811C9DC5), ("a", 0xE40C292C), ("foobar", 0xBF9CF968)])
def test_fnv1a32_reference_values(text: str, value: int) -> None:
    """From the reference vectors of the FNV specification."""
    assert fnv1a32(text) == value
    assert fnv1a32(text[1:], fnv1a32(text[:1])) == value


@pytest.mark.parametrize(
    ("seed", "unit", "value"),
    [
        ("seed", "a", 0.0505),
        ("seed", "b", 0.2696),
        ("foo", "ab", 0.2575),
        ("foo", "def", 0.2019),
        ("90850943850283058242805", "123", 0.7516),
        ("()**(%$##$%#$#", '___)((*":&', 0.0128),
    ],
)
def test_published_cases(seed: str, unit: str, value: float) -> None:
    """Version 2 cases of ``hash`` in GrowthBook's cases.json."""
    assert second_hash(fnv1a32(seed), unit) == value


@pytest.mark.parametrize("seed", SEEDS)
def test_units_hash_as_in_growthbooks_sdk(seed: str) -> None:
    growthbook = pytest.importorskip("growthbook.core")
    prefix = fnv1a32(seed)
    for unit in UNITS:
        assert second_hash(prefix, unit) == growthbook.gbhash(seed, unit, 2)


def test_a_table_of_hashes() -> None:
    """Made with GrowthBook's Python SDK 4.0.0, for where it is not installed."""
    rows = [line.split("\t") for line in VECTORS.read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 60
    assert [second_hash(fnv1a32(seed), unit) for seed, unit, _ in rows] == [float(value) for _, _, value in rows]


def test_buckets_are_counted_as_units_fall_into_them() -> None:
    values = [at / 10000 for at in range(10000)]
    for coverage in (0.001, 0.005, 0.01, 0.37, 1.0):
        for weights in ([1, 1, 1], [95, 5], [0.2, 0.5, 0.3], [1, 0]):
            for start, end in bucket_ranges(coverage, weights):
                assert buckets_between(start, end) == sum(start <= value < end for value in values)


def test_ranges_are_those_of_its_sdk() -> None:
    growthbook = pytest.importorskip("growthbook.core")
    draw = random.Random(1)
    for _ in range(500):
        weights = [draw.random() for _ in range(draw.randint(1, 5))]
        coverage = draw.choice([0.0, 0.01, draw.random(), 1.0])
        total = sum(weights)
        expected = growthbook.getBucketRanges(len(weights), coverage, [weight / total for weight in weights])
        ranges = bucket_ranges(coverage, weights)
        assert ranges == pytest.approx([pytest.approx(share) for share in expected])
        for unit in UNITS[:50]:
            at = second_hash(fnv1a32("s"), unit)
            assert growthbook.chooseVariation(at, ranges) == next(
                (arm for arm, (start, end) in enumerate(ranges) if start <= at < end), -1
            )


def test_more_coverage_only_lengthens_ranges() -> None:
    before = bucket_ranges(0.01, [0.2, 0.5, 0.3])
    after = bucket_ranges(0.5, [0.2, 0.5, 0.3])
    for (start, end), (later_start, later_end) in zip(before, after, strict=True):
        assert start == later_start
        assert end < later_end
