"""`python -m tests.offline.engine.failing`: work that fails on a Ray of one worker; prints what the caller is told.

A process of its own, because Ray leaves threads, sockets and warnings behind in the one that used it.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from typing import NoReturn

from models.contract.arrays import FloatArray
from offline.engine import ray
from offline.engine.engines import EngineError, RayConfig, open_engine
from offline.knowledge.marc.states import EngineStates


class Failing:
    """Divides by what it is given; is killed, as for its memory, by a negative number."""

    def __call__(self, batch: int) -> int:
        if batch < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return 12 // batch


class Broken:
    """A language model that does not run."""

    id = "broken"
    former_ids: tuple[str, ...] = ()

    def read(self, texts: Sequence[str], depths: Sequence[float]) -> NoReturn:
        raise RuntimeError(f"no kernel for {len(texts)} texts")

    def read_chunks(
        self, chunks: Sequence[Sequence[str]], depths: Sequence[float]
    ) -> Iterator[tuple[int, dict[float, FloatArray]]]:
        raise AssertionError("chunks are the engine's business")


def main() -> None:
    ray._MORE_TRIES = 1  # each starts a process
    with open_engine("ray", RayConfig(workers=1)) as engine:
        assert engine is not None
        print(sorted(engine.map_batches(Failing, [4, 3])))
        for work in (
            lambda: engine.map_batches(Failing, [4, 0]),
            lambda: EngineStates(engine, Broken).read_chunks([["a", "b"]], [0.5]),
            lambda: engine.map_batches(Failing, [-1]),
        ):
            try:
                list(work())
            except EngineError as error:
                print(error)


if __name__ == "__main__":
    main()
