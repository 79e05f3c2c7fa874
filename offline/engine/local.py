"""The engine that is no engine: one worker, in this process."""

from collections.abc import Callable, Iterator, Sequence

from offline.engine.protocol import BatchT, EngineError, ResultT, Work


class LocalEngine:
    """Works on one batch after the other. Nothing travels, nothing is started."""

    workers = 1

    def map_batches(
        self, make: Callable[[], Work[BatchT, ResultT]], batches: Sequence[BatchT]
    ) -> Iterator[tuple[int, ResultT]]:
        """See Engine.map_batches."""
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
            work.close()
