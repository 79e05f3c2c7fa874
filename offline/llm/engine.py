"""A language model on an engine's workers, behind the same seam as every other back end.

Cache, ledger, budget, retries and the making of batches stay with the client in the driver (offline/llm/client.py),
so a prompt is asked in the same batch, paid once and stored the moment its answer arrives, whatever the engine. Only
`complete` travels. An engine runs many batches at a time, the client asks one at a time: calls that the client has in
flight together travel together, as one wave.
"""

import asyncio
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from offline.engine.engines import Engine, EngineError
from offline.llm.protocol import Backend, Completion, PermanentError, Prompt, TransientError

Outcome = list[Completion] | Exception
_Flight = tuple[list[Prompt], "asyncio.Future[list[Completion]]"]

_TASKS_PER_WORKER = 64  # in a wave: the more, the smaller the share of its start and of the wait for its last task
_GIVE_UP_AFTER = 16  # calls of a worker that failed in a row; the rest of its wave would only wait for the same
_GATHER_SECONDS = 0.05  # the client's other calls follow the first one at once


class ModelWorker:
    """A model in a worker: answers tasks of several calls, made at the same time."""

    def __init__(self, open_model: Callable[[], Backend]) -> None:
        self._model = open_model()
        self._runner = asyncio.Runner()
        self._failed_in_a_row = 0

    def __call__(self, calls: list[list[Prompt]]) -> list[Outcome]:
        """One outcome per call. Errors are outcomes too: raised here, one would end the calls of all workers."""

        async def answers() -> list[Outcome]:
            return await asyncio.gather(*(self._outcome(prompts) for prompts in calls))

        return self._runner.run(answers())

    async def _outcome(self, prompts: list[Prompt]) -> Outcome:
        if self._failed_in_a_row >= _GIVE_UP_AFTER:
            return TransientError(f"not asked: {self._failed_in_a_row} calls of this worker failed before")
        try:
            completions = await self._model.complete(prompts)
        except TransientError as error:
            self._failed_in_a_row += 1
            return error
        except PermanentError as error:
            return error
        except Exception:  # noqa: BLE001 - a defect; what it is made of need not survive pickle
            return EngineError(f"a worker's model failed:\n{traceback.format_exc()}")
        self._failed_in_a_row = 0
        return completions


class EngineBackend:
    """A Backend whose calls are made by an engine's workers.

    `open_model` makes the back end that does the work, in each worker (which may start in another folder: give it
    absolute paths); here it only names the model and its batch size. `calls` are made at the same time by all workers
    together (a server answers many at once); a local model makes one call per worker, whatever is given.
    """

    def __init__(self, engine: Engine, open_model: Callable[[], Backend], calls: int) -> None:
        self._engine = engine
        self._model = open_model()
        self._make = partial(ModelWorker, open_model)
        self.model_id, self.batch_size = self._model.model_id, self._model.batch_size
        self._per_task = max(1, calls // engine.workers) if self.batch_size == 1 else 1
        self.calls_in_flight = (
            engine.workers * self._per_task * _TASKS_PER_WORKER
        )  # of the client: a wave for all workers
        self._waiting: list[_Flight] = []
        self._waves: asyncio.Task[None] | None = None

    async def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """See Backend.complete. Raises EngineError when the engine itself fails."""
        answered: asyncio.Future[list[Completion]] = asyncio.get_running_loop().create_future()
        self._waiting.append((list(prompts), answered))
        if self._waves is None or self._waves.done():
            self._waves = asyncio.create_task(self._run_waves())
        return await answered

    async def close(self) -> None:
        """Leave a wave in flight to the engine, which ends it when it is closed itself."""
        if self._waves is not None:
            self._waves.cancel()
        await self._model.close()

    async def _run_waves(self) -> None:
        while self._waiting:
            await asyncio.sleep(_GATHER_SECONDS)
            wave, self._waiting = self._waiting, []
            size = self._per_task
            await self._run([wave[start : start + size] for start in range(0, len(wave), size)])

    async def _run(self, tasks: list[list[_Flight]]) -> None:
        """Run one wave; every call learns its outcome when its task is done."""
        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        def work() -> None:
            failure: Exception = EngineError("the engine lost a task")
            with suppress(RuntimeError):  # the loop is closed: the run was given up, nobody waits any more
                try:
                    calls = [[prompts for prompts, _ in task] for task in tasks]
                    for position, outcomes in self._engine.map_batches(self._make, calls):
                        loop.call_soon_threadsafe(_settle, tasks[position], outcomes)
                except Exception as error:  # noqa: BLE001 - told to whoever waits
                    failure = error
                loop.call_soon_threadsafe(_end, tasks, failure, ended)

        # not asyncio's pool: at Ctrl-C Python would wait for its threads, and this one ends with the engine
        threading.Thread(target=work, name="engine-wave", daemon=True).start()
        await ended


def backend_on(engine: Engine | None, open_model: Callable[[], Backend], calls: int) -> tuple[Backend, int]:
    """The model, on the engine if there is one, and how many calls its client should have in flight."""
    if engine is None:
        return open_model(), calls
    backend = EngineBackend(engine, open_model, calls)
    return backend, backend.calls_in_flight


def _settle(task: Sequence[_Flight], outcomes: Sequence[Outcome]) -> None:
    for (_, answered), outcome in zip(task, outcomes, strict=True):
        if answered.done():  # cancelled by Ctrl-C
            continue
        if isinstance(outcome, Exception):
            answered.set_exception(outcome)
        else:
            answered.set_result(outcome)


def _end(tasks: Sequence[Sequence[_Flight]], failure: Exception, ended: "asyncio.Future[None]") -> None:
    for task in tasks:
        _settle(task, [failure] * len(task))
    if not ended.done():
        ended.set_result(None)
