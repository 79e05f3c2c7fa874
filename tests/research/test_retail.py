"""The made-up shop: the same files for a seed, in order of time, with repeats, of products that are described."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from research.retail import Shop, write_shop


def test_a_shop_of_repeats(tmp_path: Path) -> None:
    shop = Shop(customers=40, products=60, kinds=6, days=120)
    count = write_shop(shop, tmp_path / "first")
    assert write_shop(shop, tmp_path / "second") == count
    for name in ("purchases.csv", "products.csv"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    purchases, products = (pl.read_csv(tmp_path / "first" / f"{name}.csv") for name in ("purchases", "products"))
    assert len(purchases) == count
    assert purchases["time"].is_sorted()
    assert purchases["product"].is_in(products["product"].implode()).all()
    pairs = purchases.select("customer", "product").n_unique()
    assert 0.2 < 1 - pairs / count < 0.9
