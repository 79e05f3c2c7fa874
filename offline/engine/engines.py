"""What an engine is: pure work on independent batches, somewhere. Knows no language model, no texts, no Ray.

An engine decides where a batch is worked on, never what is in it, so that results do not depend on it. Whatever is
stored is stored by the caller.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel, Field

from models.contract.schema import FrozenConfig

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
    ordered: list[Any] = [None] * count
    for position, result in results:
        ordered[position] = result
    return ordered


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


EngineName = Literal["local", "ray"]


class RayConfig(BaseModel):
    """The cluster that ``--engine ray`` uses. None of it changes a result."""

    model_config = FrozenConfig

    workers: Annotated[int, Field(ge=1, le=10_000)] = 2
    cpus_per_worker: Annotated[float, Field(ge=0)] = 1.0
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0.0
    address: str | None = None  # none: the cluster that RAY_ADDRESS names, else one of our own on this machine


@contextmanager
def open_engine(name: EngineName, ray: RayConfig) -> Iterator[Engine]:
    """The engine of that name until the block ends; EngineError if it cannot start."""
    if name == "local":
        yield LocalEngine()
        return
    from offline.engine.ray import ray_engine  # an extra of its own, not installed everywhere

    with ray_engine(ray.workers, ray.cpus_per_worker, ray.gpus_per_worker, ray.address) as engine:
        yield engine
