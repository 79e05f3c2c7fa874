"""What an engine is: pure work on independent batches, somewhere. Knows no language model, no texts, no Ray.

An engine decides where a batch is worked on, never what is in it, so that results do not depend on it. Whatever is
stored is stored by the caller.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

BatchT_contra = TypeVar("BatchT_contra", contravariant=True)
ResultT_co = TypeVar("ResultT_co", covariant=True)
BatchT = TypeVar("BatchT")
ResultT = TypeVar("ResultT")


class EngineError(RuntimeError):
    """The engine could not start, or a worker's error ended the run; what was yielded before is whole."""


@runtime_checkable
class Work(Protocol[BatchT_contra, ResultT_co]):
    """A worker's loaded state (a model, connections), applied to one batch at a time."""

    def __call__(self, batch: BatchT_contra, /) -> ResultT_co: ...

    def close(self) -> None:
        """Give back what the worker holds. A worker that is killed is not asked."""
        ...


class Engine(Protocol):
    """Runs work over batches."""

    @property
    def workers(self) -> int:
        """How many batches are worked on at the same time."""
        ...

    def map_batches(
        self, make: Callable[[], Work[BatchT, ResultT]], batches: Sequence[BatchT]
    ) -> Iterator[tuple[int, ResultT]]:
        """Yield (position of the batch, result), each once, as they are finished, in any order.

        `make` is called once per worker. It, batches and results travel by pickle; `make` finds its modules where the
        worker runs. Raises EngineError for whatever a worker raises.
        """
        ...


def in_order(results: Iterator[tuple[int, ResultT]], count: int) -> list[ResultT]:
    """Results in the order of their batches."""
    held: list[Any] = [None] * count
    for position, result in results:
        held[position] = result
    return held
