"""What one run of a job asked of a language model and what that cost; and the file of all runs, one JSON line each."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from offline.llm.budget import Prices

Status = Literal["running", "done", "partial", "failed", "killed"]

_RECENT = 20  # runs from which the speed of a model is taken


@dataclass(slots=True)
class Ledger:
    """Counters of one run. `prompts` = `duplicates` + `cache_hits` + `refused` + `paid` + `failures` + what a stop left
    untried. `refused` were not asked, because earlier runs were refused for good; in those they are `failures`.

    Tokens and cost cover paid answers only; prices are per million tokens, in whatever currency the user has in mind.
    `absent` prompts have no answer at the end of the run, `reason` is why the first of them has none. `bytes_written`
    is the caller's. `status` "running" becomes one of the others when the run ends; see runs.py for a run that dies.
    """

    run: str
    model_id: str
    price_prompt_per_million: float = 0.0
    price_completion_per_million: float = 0.0
    prompts: int = 0
    duplicates: int = 0
    cache_hits: int = 0
    paid: int = 0
    calls: int = 0
    retries: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    run_id: str = ""
    job: str = ""
    status: Status = "running"
    absent: int = 0
    reason: str = ""
    bytes_written: int = 0
    refused: int = 0
    started_at: str = ""
    finished_at: str = ""

    @property
    def prices(self) -> Prices:
        return Prices(self.price_prompt_per_million, self.price_completion_per_million)

    @property
    def cost(self) -> float:
        """Price of the paid tokens."""
        return self.prices.of(self.prompt_tokens, self.completion_tokens)

    def summary(self) -> str:
        """Return one readable line."""
        line = (
            f"{self.run} [{self.model_id}]: {self.prompts} prompts, {self.cache_hits} from cache, {self.paid} paid"
            f" ({self.prompt_tokens} + {self.completion_tokens} tokens, cost {self.cost:.4f})"
            f" in {self.calls} calls, {self.seconds:.1f} s"
        )
        if self.retries or self.failures:
            line += f"; {self.retries} retries, {self.failures} failures"
        if self.refused:
            line += f"; {self.refused} refused in earlier runs"
        if self.absent:
            line += f"; {self.absent} absent ({self.reason})"
        return line

    def line(self) -> str:
        """Return the run as one line of JSON, as of now; a time of ending that is already known stays."""
        finished = self.finished_at or now()
        return json.dumps(asdict(self) | {"cost": self.cost, "finished_at": finished})

    @classmethod
    def parse(cls, line: str | bytes) -> "Ledger":
        """Read a line of any version: what it lacks takes its default, what is unknown is left out.

        Raises ValueError for a line that is no run.
        """
        record: Any = json.loads(line)
        if not isinstance(record, dict) or not {"run", "model_id"} <= record.keys():
            raise ValueError("not a run")
        names = {field.name for field in fields(cls)}
        known = {name: value for name, value in record.items() if name in names}
        # before there was a status, every failure ended the job with an error
        known.setdefault("status", "failed" if known.get("failures") else "done")
        return cls(**known)

    def append_to(self, path: Path) -> None:
        """Add this run as one line to `path`; one write, so that lines of parallel runs do not mix."""
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            # a power cut can leave half a line; it must not spoil this one too
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, b"\n" * torn + self.line().encode() + b"\n")
        finally:
            os.close(descriptor)


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_ledger(path: Path) -> list[Ledger]:
    """All runs of the file, oldest first; of a run with several lines the last. Damaged lines are passed over."""
    runs: dict[str, Ledger] = {}
    lines = path.read_bytes().splitlines() if path.is_file() else []
    for number, line in enumerate(lines):
        try:
            run = Ledger.parse(line)
        except (ValueError, TypeError):  # half a line, after a power cut
            continue
        runs[run.run_id or f"line {number}"] = run
    return list(runs.values())


def tokens_per_second(runs: Iterable[Ledger], model_id: str) -> float | None:
    """Answer tokens per second in the latest runs of a model that asked anything; None without such a run."""
    asked = [run for run in runs if run.model_id == model_id and run.completion_tokens > 0 and run.seconds > 0]
    recent = asked[-_RECENT:]
    return sum(run.completion_tokens for run in recent) / sum(run.seconds for run in recent) if recent else None
