"""The jobs' metrics for Prometheus, as a file for the node exporter's text-file collector.

The file tells of every job of one configuration, from the ledger; it is replaced at the end of each run, whatever its
end. Knows ledger lines (offline/jobs/runs.py), no job.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

STATES = ("done", "partial", "failed", "locked", "interrupted", "killed")
_LLM = {
    "calls": "calls to the language model, retries included",
    "cache_hits": "answers that were paid for earlier",
    "paid": "answers that were paid for",
    "failures": "prompts whose call failed for good",
    "absent": "texts that are still to come",
    "prompt_tokens": "tokens of paid prompts",
    "completion_tokens": "tokens of paid answers",
    "cost": "price of the paid tokens, in the configuration's currency",
    "seconds": "time spent asking",
}


def write(path: Path, runs: Sequence[Mapping[str, Any]], current: Mapping[str, Any]) -> None:
    """Replace ``path`` by the metrics of ``runs`` of the ledger, oldest first, and of the run that ends now, which is
    there too unless it found the work folder locked. OSError if the file cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(path), registry(runs, current))


def registry(runs: Sequence[Mapping[str, Any]], current: Mapping[str, Any]) -> CollectorRegistry:
    """All metrics; those of a later run replace an earlier one's."""
    made = CollectorRegistry()
    known = runs if any(one["run"] == current["run"] for one in runs) else [*runs, current]
    _status(made, known)
    _work(made, {one["job"]: one for one in known if one["status"] not in ("locked", "killed")})
    _producers(made, known)
    made.register(_Totals(known))
    return made


class _Totals(Collector):
    """Sums over all runs of the ledger, as its last line has them."""

    def __init__(self, runs: Sequence[Mapping[str, Any]]) -> None:
        self._last = next((one for one in reversed(runs) if one.get("totals")), None)

    def collect(self) -> Iterator[CounterMetricFamily]:
        for name, value in (self._last["totals"] if self._last else {}).items():
            one = CounterMetricFamily(
                f"lorank_jobs_{name}", f"{name}, all runs of the ledger together", labels=["config"]
            )
            one.add_metric([str(self._last["config"]) if self._last else ""], value)
            yield one


def _status(made: CollectorRegistry, runs: Sequence[Mapping[str, Any]]) -> None:
    labels = ("config", "job")
    status = Gauge("lorank_job_status", "1 for how the last run ended", (*labels, "status"), registry=made)
    finished = Gauge("lorank_job_finished_timestamp_seconds", "when the last run ended", labels, registry=made)
    success = Gauge("lorank_job_success_timestamp_seconds", "when a run last left nothing", labels, registry=made)
    useful = Gauge("lorank_job_useful_timestamp_seconds", "when a run last was done or partial", labels, registry=made)
    for one in runs:
        key = (one["config"], one["job"])
        at = datetime.fromisoformat(one["finished_at"]).timestamp()
        for state in STATES:
            status.labels(*key, state).set(one["status"] == state)
        finished.labels(*key).set(at)
        if one["status"] == "done":
            success.labels(*key).set(at)
        if one["status"] in ("done", "partial"):
            useful.labels(*key).set(at)


def _work(made: CollectorRegistry, last: Mapping[str, Mapping[str, Any]]) -> None:
    """What the last run of each job did, as far as it did anything."""
    labels = ("config", "job")
    seconds = Gauge("lorank_job_seconds", "duration of the last run", labels, registry=made)
    stages = Gauge("lorank_job_stage_seconds", "duration of its stages", (*labels, "stage"), registry=made)
    written = Gauge("lorank_job_records_written", "records it wrote", (*labels, "kind"), registry=made)
    unchanged = Gauge("lorank_job_records_unchanged", "records that were up to date", (*labels, "kind"), registry=made)
    size = Gauge("lorank_job_bytes_written", "bytes it wrote to Redis", (*labels, "kind"), registry=made)
    bad = Gauge("lorank_llm_bad_answers", "answers it found bad, by problem", (*labels, "problem"), registry=made)
    llm = {name: Gauge(f"lorank_llm_{name}", f"{told}; last run", labels, registry=made) for name, told in _LLM.items()}
    for one in last.values():
        key = (one["config"], one["job"])
        seconds.labels(*key).set(one["seconds"])
        for stage, took in one["stages"].items():
            stages.labels(*key, stage).set(took)
        for kind, counts in one["records"].items():
            written.labels(*key, kind).set(counts["written"])
            unchanged.labels(*key, kind).set(counts["unchanged"])
            size.labels(*key, kind).set(counts["bytes"])
        for problem, count in one["bad_answers"].items():
            bad.labels(*key, problem).set(count)
        for name, gauge in llm.items():
            gauge.labels(*key).set(one["llm"].get(name, 0))


def _producers(made: CollectorRegistry, runs: Sequence[Mapping[str, Any]]) -> None:
    labels = ("config", "producer")
    complete = Gauge("lorank_producer_complete", "1 if nothing of it is left to do", labels, registry=made)
    success = Gauge("lorank_producer_success_timestamp_seconds", "when it last was complete", labels, registry=made)
    absent = Gauge("lorank_producer_texts_absent", "texts that it still waits for", labels, registry=made)
    owners = Gauge("lorank_producer_owners", "users and items it knows", (*labels, "side"), registry=made)
    for one in runs:
        at = datetime.fromisoformat(one["finished_at"]).timestamp()
        for name, outcome in one["producers"].items():
            key = (one["config"], name)
            whole = outcome["state"] in ("made", "current")
            complete.labels(*key).set(whole)
            absent.labels(*key).set(outcome.get("absent", 0))
            if whole:
                success.labels(*key).set(at)
            for side in ("users", "items"):
                if side in outcome:
                    owners.labels(*key, side).set(outcome[side])
