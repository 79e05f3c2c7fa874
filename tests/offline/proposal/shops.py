"""Files of made-up shops, as they come: each is a set of two or three tables whose form nobody has described."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

KINDS = ("Fantasy", "History", "Mystery", "Romance", "Science", "Travel")
WORDS = ("river", "night", "garden", "letter", "winter", "island", "mirror", "harbour", "forest", "signal")
FIRST_SECOND = 1_700_000_000


@dataclass(frozen=True)
class Shop:
    """Rows: interactions (user, item, stars, seconds), items (id, title, kinds, year), users (id, country)."""

    interactions: list[tuple[str, str, int, int]]
    items: list[tuple[str, str, str, int]]
    users: list[tuple[str, str]]


def shop(users: int = 60, items: int = 40, events: int = 1500, seed: int = 1) -> Shop:
    """A shop in which a user likes items of one kind."""
    draw = np.random.default_rng(seed)
    kind_of = draw.integers(len(KINDS), size=items)
    taste = draw.integers(len(KINDS), size=users)
    rows = []
    for second in range(events):
        user, item = int(draw.integers(users)), int(draw.integers(items))
        liked = taste[user] == kind_of[item] or draw.random() < 0.2
        stars = int(draw.integers(4, 6)) if liked else int(draw.integers(1, 4))
        rows.append((f"u{user}", f"b{item}", stars, FIRST_SECOND + second * 600))
    titles = [f"The {WORDS[at % 10]} of {WORDS[at // 10 % 10]} {at}" for at in range(items)]
    described = [
        (f"b{at}", titles[at], "|".join(sorted({KINDS[kind_of[at]], KINDS[at % len(KINDS)]})), 1950 + at % 70)
        for at in range(items)
    ]
    countries = ("BR", "CN", "DE", "IN", "US")
    return Shop(rows, described, [(f"u{at}", countries[at % 5]) for at in range(users)])


def write(
    path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]], *, separator: str = ",", encoding: str = "utf-8"
) -> Path:
    """A text file; no header if ``header`` is empty."""
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=separator, lineterminator="\n")
        if header:
            writer.writerow(header)
        writer.writerows(rows)
    return path
