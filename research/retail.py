"""A shop that is made up by rules: purchases with repeats, to see what a model is worth where habits matter.

- Products belong to kinds; within a kind a product is bought in proportion to 1 / (1 + its rank) ** .8.
- A customer likes three to six kinds, with weights of a Dirichlet distribution (.5), and visits every 2 to 14 days,
  times a Gamma(4) of mean 1.
- Two to eight staples of a customer, drawn from those kinds, are each bought again when their own period (5 to 60 days,
  times a lognormal of deviation .25) has passed, at the first visit after that.
- Beside these, a visit brings a Poisson number (mean .7) of other products: of a liked kind with probability .8, of any
  kind else.
- Products appear over the first half of the period, and every tenth product loses its customers in the last quarter.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

_BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
_COLOURS = ("red", "blue", "green", "white", "black", "yellow", "grey", "brown")


@dataclass(frozen=True, slots=True)
class Shop:
    """Sizes of a shop. ``days`` is the length of its history."""

    customers: int = 800
    products: int = 600
    kinds: int = 20
    days: int = 365
    seed: int = 7


def write_shop(shop: Shop, folder: Path) -> int:
    """Write purchases.csv (customer, product, time) and products.csv (product, name, kind) into a folder; how many
    purchases there are."""
    generator = np.random.default_rng(shop.seed)
    kind_of = generator.integers(shop.kinds, size=shop.products)
    rank = np.zeros(shop.products)
    for kind in range(shop.kinds):
        members = generator.permutation(np.flatnonzero(kind_of == kind))
        rank[members] = np.arange(len(members))
    appears = np.sort(generator.uniform(-shop.days, shop.days / 2, shop.products)).clip(min=0)
    ends = np.where(generator.random(shop.products) < 0.1, 0.75 * shop.days, shop.days + 1.0)
    market = _Market(kind_of, 1.0 / (1.0 + rank) ** 0.8, appears, ends)
    rows = sorted(
        (at, customer, product)
        for customer in range(shop.customers)
        for at, product in _purchases(shop, market, generator)
    )
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "purchases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["customer", "product", "time"])
        for at, customer, product in rows:
            moment = _BEGIN + timedelta(days=at)
            writer.writerow([f"c{customer:05}", f"p{product:05}", moment.strftime("%Y-%m-%d %H:%M:%S")])
    with (folder / "products.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["product", "name", "kind"])
        for product, kind in enumerate(kind_of):
            colour = _COLOURS[generator.integers(len(_COLOURS))]
            writer.writerow([f"p{product:05}", f"{colour} ware {product}", f"kind {kind}"])
    return len(rows)


@dataclass(frozen=True, slots=True)
class _Market:
    """Of each product [n]: its kind, how much it is liked, and the days between which it is bought."""

    kind: np.ndarray
    appeal: np.ndarray
    appears: np.ndarray
    ends: np.ndarray

    def draw(self, kinds: np.ndarray, weights: np.ndarray, day: float, generator: np.random.Generator) -> int:
        """A product of one of the kinds, drawn by their weights, that is there on a day; -1 if there is none."""
        kind = generator.choice(kinds, p=weights)
        there = np.flatnonzero((self.kind == kind) & (self.appears <= day) & (day < self.ends))
        if not len(there):
            return -1
        return int(generator.choice(there, p=self.appeal[there] / self.appeal[there].sum()))


def _purchases(shop: Shop, market: _Market, generator: np.random.Generator) -> list[tuple[float, int]]:
    """Days and products of one customer."""
    liked = generator.choice(shop.kinds, size=generator.integers(3, 7), replace=False)
    weights = generator.dirichlet(np.full(len(liked), 0.5))
    everything, alike = np.arange(shop.kinds), np.full(shop.kinds, 1.0 / shop.kinds)
    day = float(generator.uniform(0, shop.days * 0.6))  # the first visit
    gap = float(generator.uniform(2, 14))
    due: dict[int, tuple[float, float]] = {}  # day and period
    for _ in range(int(generator.integers(2, 9))):
        staple = market.draw(liked, weights, day, generator)
        if staple >= 0:
            period = float(generator.uniform(5, 60))
            due[staple] = day + float(generator.uniform(0, period)), period
    bought = []
    while day < shop.days:
        minutes = 0.0
        basket = [product for product, (at, _) in due.items() if at <= day < market.ends[product]]
        for product in basket:
            period = due[product][1]
            due[product] = day + period * float(generator.lognormal(0.0, 0.25)), period
        for _ in range(int(generator.poisson(0.7))):
            kinds, of_kinds = (liked, weights) if generator.random() < 0.8 else (everything, alike)
            basket.append(market.draw(kinds, of_kinds, day, generator))
        for product in basket:
            if product >= 0:
                bought.append((day + minutes / 1440.0, product))
                minutes += 1.0
        day += gap * float(generator.gamma(4.0, 0.25))
    return bought
