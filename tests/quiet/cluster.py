"""A small run on a Ray of its own, as a process: python -m tests.quiet.cluster -> the sums of two batches."""

from __future__ import annotations

from collections.abc import Callable

from offline.engine.engines import RayConfig
from offline.engine.ray import ray_engine


def adder() -> Callable[[list[int]], int]:
    """The work of a worker."""
    return sum


if __name__ == "__main__":
    with ray_engine(RayConfig(workers=1)) as engine:
        print(sorted(result for _, result in engine.map_batches(adder, [[1, 2], [3, 4]])))
