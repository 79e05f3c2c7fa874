"""The engine on Ray Data: batches are rows of a dataset, workers a pool of actors, results stream back as they end.

Ray itself works a batch again whose worker or node died, a few times: by itself it would do so for ever, also where a
worker is too large for its machine. An error of the work is tried once, and ends the run.
"""

import logging
import math
import os
import pickle
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from models.cores import usable_cores
from offline.engine.engines import BatchT, EngineError, RayConfig, ResultT
from offline.libraries import quiet_libraries, quiet_variables

_OBJECT_STORE_BYTES = 512 * 2**20  # of a cluster of our own: texts and vectors in flight, a few megabytes
_BLOCKS_PER_WORKER = 64  # a result is delivered with its block: smaller blocks come earlier, each costs the driver time
_MORE_TRIES = 3  # of a batch whose worker died, and of a worker; each loads its model again
_STALLED_SECONDS = 24 * 3600  # Ray Data ends what makes no progress for half an hour: a large model may need longer


class RayEngine:
    """A fixed pool of actors per call of `map_batches`, each with its own CPUs and GPUs."""

    def __init__(self, config: RayConfig) -> None:
        self.workers = config.workers
        self._config = config

    def map_batches(
        self, make: Callable[[], Callable[[BatchT], ResultT]], batches: Sequence[BatchT]
    ) -> Iterator[tuple[int, ResultT]]:
        if not batches:
            return
        import ray

        workers = min(self.workers, len(batches))
        # bytes, because Ray Data would make Arrow columns of lists, and other types of what comes back
        rows = [{"position": at, "batch": pickle.dumps(batch)} for at, batch in enumerate(batches)]
        dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), workers * _BLOCKS_PER_WORKER))
        worked = dataset.map_batches(
            _Actor,
            fn_constructor_args=(make,),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=self._config.cpus_per_worker,
            num_gpus=self._config.gpus_per_worker,
            max_restarts=_MORE_TRIES,
            max_task_retries=_MORE_TRIES,
        )
        try:
            for row in worked.iter_rows():
                position = int(row["position"])
                done, result = pickle.loads(row["result"])  # noqa: S301 - our own worker's bytes
                if not done:
                    raise EngineError(f"batch {position}: {result}")
                yield position, result
        except EngineError:
            raise
        except ray.exceptions.RayActorError as error:
            raise EngineError(f"a worker died, and again in every new try: {_line(error)}") from error
        except Exception as error:  # Ray Data has no class of its own for what it raises
            raise EngineError(f"Ray Data ended: {_line(error)}") from error


class _Actor:
    """The code in every worker process. Errors are results: Ray would wrap them in its own, and each differently."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]]) -> None:
        self._make = make
        self._work: Callable[[Any], Any] | None = None

    def __call__(self, rows: Any) -> Any:
        import pyarrow

        results = [pickle.dumps(self._result(batch)) for batch in rows["batch"].to_pylist()]
        return pyarrow.table({"position": rows["position"], "result": pyarrow.array(results, pyarrow.binary())})

    def _result(self, batch: bytes) -> tuple[bool, Any]:
        try:
            if self._work is None:
                self._work = self._make()
            return True, self._work(pickle.loads(batch))  # noqa: S301 - the driver's bytes
        except Exception as error:  # noqa: BLE001 - raised in the driver
            return False, f"{type(error).__name__}: {error}"


@contextmanager
def ray_engine(config: RayConfig) -> Iterator[RayEngine]:
    """Connect to the configured cluster (or RAY_ADDRESS), or run one on this machine until the block ends."""
    quiet_libraries()  # inherited by the workers of a cluster of our own
    address = config.address or os.environ.get("RAY_ADDRESS")
    if not address:
        _choose_token()
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ImportError as error:
        raise EngineError("engine 'ray' needs the extra: pip install 'lorank[ray]'") from error

    # Ray would keep the logs of every run for good; a short path, because it makes sockets in there
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        # more workers than cores is the user's wish; without this Ray would wait forever for the cores
        cores = max(usable_cores(), math.ceil(config.workers * config.cpus_per_worker))
        own = {
            "address": "local",  # without, Ray would join a cluster that somebody else started on this machine
            "num_cpus": cores,
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "_temp_dir": folder,
        }
        elsewhere = {"address": address, "runtime_env": {"env_vars": quiet_variables()}}  # its nodes have their own
        settings: dict[str, Any] = elsewhere if address else own
        try:
            ray.init(log_to_driver=False, logging_level=logging.WARNING, **settings)
        except Exception as error:  # a node that is too slow to start is a bare Exception
            raise EngineError(f"Ray does not start: {_line(error)}") from error
        try:
            context = ray.data.DataContext.get_current()  # the jobs have progress bars and a log of their own
            context.enable_progress_bars = context.print_on_execution_start = False
            context.execution_no_progress_timeout_s = _STALLED_SECONDS
            logging.getLogger("ray.data").setLevel(logging.ERROR)
            where = f"the cluster at {address}" if address else "this machine"
            print(f"  Ray: {config.workers} workers on {where}", flush=True)
            yield RayEngine(config)
        finally:
            ray.shutdown()


def _choose_token() -> None:
    """A secret of this process for its own cluster. Ray would write one for ever into HOME. A choice made in the
    environment stays."""
    if not any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _line(error: Exception) -> str:
    """Ray's messages have many lines, a job's error has one."""
    return " ".join(str(error).split())
