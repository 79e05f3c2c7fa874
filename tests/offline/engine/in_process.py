"""An engine whose one worker is this process: what a worker computes, and how its errors read, without Ray."""

from collections.abc import Callable, Iterator, Sequence

from offline.engine.engines import BatchT, EngineError, ResultT
from offline.llm.engine import ModelWorker


class InProcess:
    """Works on one batch after the other."""

    workers = 1

    def map_batches(
        self, make: Callable[[], Callable[[BatchT], ResultT]], batches: Sequence[BatchT]
    ) -> Iterator[tuple[int, ResultT]]:
        if not batches:
            return
        work = make()
        try:
            for position, batch in enumerate(batches):
                try:
                    result = work(batch)
                except Exception as error:
                    raise EngineError(f"batch {position}: {type(error).__name__}: {error}") from error
                yield position, result
        finally:
            if isinstance(work, ModelWorker):  # the end of a worker's process closes its event loop
                work._runner.close()
