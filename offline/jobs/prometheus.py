"""The jobs' metrics for Prometheus, as a file for the node exporter's text-file collector.

The file tells of every job of one configuration, from the ledger; it is replaced at the end of each run, whatever its
end. Knows ledger lines (ledger.py), no job.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from offline.jobs.ledger import RunRecord, RunStatus
from offline.knowledge.run import ProducerState

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


def write(path: Path, runs: Sequence[RunRecord], current: RunRecord) -> None:
    """Replace ``path`` by the metrics of ``runs`` of the ledger, oldest first, and of the run that ends now, which is
    there too unless it found the work folder locked. OSError if the file cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(path), registry(runs, current))


def registry(runs: Sequence[RunRecord], current: RunRecord) -> CollectorRegistry:
    """All metrics; those of a later run replace an earlier one's."""
    metrics = CollectorRegistry()
    known = runs if any(run.run == current.run for run in runs) else [*runs, current]
    known = [run for run in known if run.finished_at]
    _status(metrics, known)
    _work(metrics, {run.job: run for run in known if run.status not in (RunStatus.LOCKED, RunStatus.KILLED)})
    _producers(metrics, known)
    metrics.register(_Totals(known))
    return metrics


class _Totals(Collector):
    """Sums over all runs of the ledger, as its last line has them."""

    def __init__(self, runs: Sequence[RunRecord]) -> None:
        self._last = next((run for run in reversed(runs) if run.totals), None)

    def collect(self) -> Iterator[CounterMetricFamily]:
        for name, total in (self._last.totals if self._last else {}).items():
            family = CounterMetricFamily(
                f"lorank_jobs_{name}", f"{name}, all runs of the ledger together", labels=["config"]
            )
            family.add_metric([self._last.config if self._last else ""], total)
            yield family


def _status(metrics: CollectorRegistry, runs: Sequence[RunRecord]) -> None:
    labels = ("config", "job")
    status = Gauge("lorank_job_status", "1 for how the last run ended", (*labels, "status"), registry=metrics)
    finished = Gauge("lorank_job_finished_timestamp_seconds", "when the last run ended", labels, registry=metrics)
    success = Gauge("lorank_job_success_timestamp_seconds", "when a run last left nothing", labels, registry=metrics)
    useful = Gauge(
        "lorank_job_useful_timestamp_seconds", "when a run last was done or partial", labels, registry=metrics
    )
    for run in runs:
        key, at = (run.config, run.job), _finished(run)
        for state in RunStatus:
            if state is not RunStatus.RUNNING:
                status.labels(*key, state.value).set(run.status is state)
        finished.labels(*key).set(at)
        if run.status is RunStatus.DONE:
            success.labels(*key).set(at)
        if run.status in (RunStatus.DONE, RunStatus.PARTIAL):
            useful.labels(*key).set(at)


def _work(metrics: CollectorRegistry, last: Mapping[str, RunRecord]) -> None:
    """What the last run of each job did, as far as it did anything."""
    labels = ("config", "job")
    seconds = Gauge("lorank_job_seconds", "duration of the last run", labels, registry=metrics)
    stages = Gauge("lorank_job_stage_seconds", "duration of its stages", (*labels, "stage"), registry=metrics)
    written = Gauge("lorank_job_records_written", "records it wrote", (*labels, "kind"), registry=metrics)
    unchanged = Gauge(
        "lorank_job_records_unchanged", "records that were up to date", (*labels, "kind"), registry=metrics
    )
    size = Gauge("lorank_job_bytes_written", "bytes it wrote to Redis", (*labels, "kind"), registry=metrics)
    bad = Gauge("lorank_llm_bad_answers", "answers it found bad, by problem", (*labels, "problem"), registry=metrics)
    llm = {
        name: Gauge(f"lorank_llm_{name}", f"{meaning}; last run", labels, registry=metrics)
        for name, meaning in _LLM.items()
    }
    for run in last.values():
        key = (run.config, run.job)
        seconds.labels(*key).set(run.seconds)
        for stage, duration in run.stages.items():
            stages.labels(*key, stage).set(duration)
        for kind, counts in run.records.items():
            written.labels(*key, kind).set(counts["written"])
            unchanged.labels(*key, kind).set(counts["unchanged"])
            size.labels(*key, kind).set(counts["bytes"])
        for problem, count in run.bad_answers.items():
            bad.labels(*key, problem).set(count)
        for name, gauge in llm.items():
            gauge.labels(*key).set(0 if run.llm is None else getattr(run.llm, name))


def _producers(metrics: CollectorRegistry, runs: Sequence[RunRecord]) -> None:
    labels = ("config", "producer")
    complete = Gauge("lorank_producer_complete", "1 if nothing of it is left to do", labels, registry=metrics)
    success = Gauge("lorank_producer_success_timestamp_seconds", "when it last was complete", labels, registry=metrics)
    absent = Gauge("lorank_producer_texts_absent", "texts that it still waits for", labels, registry=metrics)
    owners = Gauge("lorank_producer_owners", "users and items it knows", (*labels, "side"), registry=metrics)
    for run in runs:
        for name, producer in run.producers.items():
            key = (run.config, name)
            whole = producer.state in (ProducerState.MADE, ProducerState.CURRENT)
            complete.labels(*key).set(whole)
            absent.labels(*key).set(producer.absent)
            if whole:
                success.labels(*key).set(_finished(run))
            for side, count in (("users", producer.users), ("items", producer.items)):
                if count is not None:
                    owners.labels(*key, side).set(count)


def _finished(run: RunRecord) -> float:
    return datetime.fromisoformat(run.finished_at).timestamp()
