"""A small run on a Ray of its own, as a process: python -m tests.quiet.cluster -> the sums of two batches."""

from __future__ import annotations

from offline.engine.ray import ray_engine


class Adder:
    """The work of a worker."""

    def __call__(self, batch: list[int], /) -> int:
        return sum(batch)

    def close(self) -> None:
        """It holds nothing."""


if __name__ == "__main__":
    with ray_engine(1) as engine:
        print(sorted(result for _, result in engine.map_batches(Adder, [[1, 2], [3, 4]])))
