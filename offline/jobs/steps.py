"""The needs of every step of the jobs: where its files lie, whether it is up to date, a line for the terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from models.contract.schema import fingerprint
from offline.config import JobConfig
from offline.data.catalogue import Catalogue
from offline.data.files import read_json, write_json
from offline.data.log import InteractionLog
from offline.knowledge.knowledge_texts import Domain
from offline.llm.budget import Budget

Engine = Literal["local", "ray"]
NO_BOUND = Budget()


@dataclass(frozen=True, slots=True)
class Job:
    """One call of ``python -m offline``. ``data_dir`` holds the folders of embedded servers and of artifacts; each
    configuration has its own among them.

    ``retrain`` trains even if nothing changed, ``choose`` chooses an architecture anew where "auto" is served;
    ``take_over`` lets it replace another configuration's live release; ``since_ms`` bounds the work to users and items
    with something new since then; ``ask_refused`` forgets which prompts the language model refused for good; ``budget``
    is for the language model; with ``live_first``, a refresh that finds nothing live asks none; ``metrics`` is a file
    for Prometheus.
    """

    config: JobConfig
    data_dir: Path
    use_cache: bool = True
    ask_refused: bool = False
    retrain: bool = False
    choose: bool = False
    take_over: bool = False
    since_ms: int | None = None
    budget: Budget = NO_BOUND
    live_first: bool = False
    engine: Engine = "local"
    metrics: Path | None = None

    @property
    def raw(self) -> Path:
        return self.config.workdir / "raw"

    @property
    def log(self) -> Path:
        return self.config.workdir / "log"

    @property
    def knowledge(self) -> Path:
        return self.config.workdir / "knowledge"

    @property
    def llm(self) -> Path:
        return self.config.workdir / "llm"

    @property
    def checkpoints(self) -> Path:
        """Converted weights of language models."""
        return self.llm / "checkpoints"

    @property
    def arrivals(self) -> Path:
        return self.config.workdir / "arrivals.json"

    @property
    def imported(self) -> Path:
        return self.config.workdir / "imported.json"

    @property
    def models(self) -> Path:
        return self.config.workdir / "models"

    def domain(self, catalogue: Catalogue, log: InteractionLog) -> Domain:
        """The data set as the producers of knowledge see it."""
        return Domain(self.config.knowledge, self.config.feature_schema, self.config.data.texts, catalogue, log)


class StepCache:
    """Remembers with which inputs each step last finished. A step whose inputs are unchanged need not run."""

    def __init__(self, job: Job) -> None:
        self._path = job.config.workdir / "stages.json"

    def is_current(self, name: str, inputs: dict[str, Any], *outputs: Path) -> bool:
        """Whether the step last finished with these inputs, and what it made is still there."""
        return name in self.all() and not self.changed(name, inputs) and all(path.is_file() for path in outputs)

    def changed(self, name: str, inputs: dict[str, Any]) -> set[str]:
        """Keys of the inputs that differ from those with which the step last finished; all of them if it never did."""
        before = self.all().get(name, {}).get("inputs")
        if not isinstance(before, dict):  # never, or as an earlier version wrote it
            return set(inputs)
        return {key for key in {*inputs, *before} if key not in inputs or before.get(key) != fingerprint(inputs[key])}

    def finished(self, name: str, inputs: dict[str, Any], seconds: float) -> None:
        each = {key: fingerprint(value) for key, value in inputs.items()}
        entry = {"inputs": each, "finished_at": int(time.time()), "seconds": round(seconds, 1)}
        write_json(self._path, {**self.all(), name: entry})

    def all(self) -> dict[str, Any]:
        return dict(read_json(self._path)) if self._path.is_file() else {}


class Stopwatch:
    """Seconds since it was made, and lines of a step for the terminal."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._started

    def done(self, message: str) -> None:
        print(f"  {message} ({self.seconds:.1f} s)", flush=True)


@contextmanager
def step(title: str) -> Iterator[Stopwatch]:
    print(f"== {title}", flush=True)
    yield Stopwatch()
