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

_JOB = ("config", "job")
_PRODUCER = ("config", "producer")
_GAUGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "job_status": ("1 for how the last run ended", (*_JOB, "status")),
    "job_finished_timestamp_seconds": ("when the last run ended", _JOB),
    "job_success_timestamp_seconds": ("when a run last left nothing", _JOB),
    "job_useful_timestamp_seconds": ("when a run last was done or partial", _JOB),
    "job_seconds": ("duration of the last run", _JOB),
    "job_stage_seconds": ("duration of its stages", (*_JOB, "stage")),
    "job_records_written": ("records it wrote", (*_JOB, "kind")),
    "job_records_unchanged": ("records that were up to date", (*_JOB, "kind")),
    "job_bytes_written": ("bytes it wrote to Redis", (*_JOB, "kind")),
    "model_refused": ("1 if the gate keeps the model that was trained last from going live", ("config",)),
    "llm_bad_answers": ("answers it found bad, by problem", (*_JOB, "problem")),
    "llm_judged_answers": ("well-formed new answers, by kind of text", (*_JOB, "texts")),
    "llm_unfaithful_answers": ("those that name what their question does not", (*_JOB, "texts")),
    "llm_calls": ("calls to the language model, retries included; last run", _JOB),
    "llm_cache_hits": ("answers that were paid for earlier; last run", _JOB),
    "llm_paid": ("answers that were paid for; last run", _JOB),
    "llm_failures": ("prompts whose call failed for good; last run", _JOB),
    "llm_absent": ("texts that are still to come; last run", _JOB),
    "llm_prompt_tokens": ("tokens of paid prompts; last run", _JOB),
    "llm_completion_tokens": ("tokens of paid answers; last run", _JOB),
    "llm_cost": ("price of the paid tokens, in the configuration's currency; last run", _JOB),
    "llm_seconds": ("time spent asking; last run", _JOB),
    "producer_complete": ("1 if nothing of it is left to do", _PRODUCER),
    "producer_success_timestamp_seconds": ("when it last was complete", _PRODUCER),
    "producer_texts_absent": ("texts that it still waits for", _PRODUCER),
    "producer_owners": ("users and items it knows", (*_PRODUCER, "side")),
}
"""Meaning and labels of each gauge, by its name without ``lorank_``."""
_LLM = [name for name, (meaning, _) in _GAUGES.items() if meaning.endswith("; last run")]


def write(path: Path, runs: Sequence[RunRecord], current: RunRecord) -> None:
    """Replace ``path`` by the metrics of ``runs`` of the ledger, oldest first, and of the run that ends now, which is
    there too unless it found the work folder locked. OSError if the file cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(path), registry(runs, current))


def registry(runs: Sequence[RunRecord], current: RunRecord) -> CollectorRegistry:
    """All metrics; those of a later run replace an earlier one's."""
    metrics = CollectorRegistry()
    gauges = {
        name: Gauge(f"lorank_{name}", meaning, labels, registry=metrics) for name, (meaning, labels) in _GAUGES.items()
    }
    known = runs if any(run.run == current.run for run in runs) else [*runs, current]
    known = [run for run in known if run.finished_at]
    for run in known:
        _set_status(gauges, run)
        _set_producers(gauges, run)
        if run.refused is not None:
            gauges["model_refused"].labels(run.config).set(bool(run.refused))
    for run in {run.job: run for run in known if run.status not in (RunStatus.LOCKED, RunStatus.KILLED)}.values():
        _set_work(gauges, run)
    if last := next((run for run in reversed(known) if run.totals), None):
        metrics.register(_Totals(last))
    return metrics


class _Totals(Collector):
    """Sums over all runs of the ledger, as its last line has them."""

    def __init__(self, last: RunRecord) -> None:
        self._last = last

    def collect(self) -> Iterator[CounterMetricFamily]:
        for name, total in self._last.totals.items():
            meaning = f"{name}, all runs of the ledger together"
            family = CounterMetricFamily(f"lorank_jobs_{name}", meaning, labels=["config"])
            family.add_metric([self._last.config], total)
            yield family


def _set_status(gauges: Mapping[str, Gauge], run: RunRecord) -> None:
    key, at = (run.config, run.job), _finished(run)
    for status in RunStatus:
        if status is not RunStatus.RUNNING:
            gauges["job_status"].labels(*key, status.value).set(run.status is status)
    gauges["job_finished_timestamp_seconds"].labels(*key).set(at)
    if run.status is RunStatus.DONE:
        gauges["job_success_timestamp_seconds"].labels(*key).set(at)
    if run.status in (RunStatus.DONE, RunStatus.PARTIAL):
        gauges["job_useful_timestamp_seconds"].labels(*key).set(at)


def _set_work(gauges: Mapping[str, Gauge], run: RunRecord) -> None:
    """The work of a run that did anything."""
    key = (run.config, run.job)
    gauges["job_seconds"].labels(*key).set(run.seconds)
    for stage, duration in run.stages.items():
        gauges["job_stage_seconds"].labels(*key, stage).set(duration)
    for kind, counts in run.records.items():
        gauges["job_records_written"].labels(*key, kind).set(counts["written"])
        gauges["job_records_unchanged"].labels(*key, kind).set(counts["unchanged"])
        gauges["job_bytes_written"].labels(*key, kind).set(counts["bytes"])
    for problem, count in run.bad_answers.items():
        gauges["llm_bad_answers"].labels(*key, problem).set(count)
    for kind, counts in run.faithfulness.items():
        gauges["llm_judged_answers"].labels(*key, kind).set(counts.get("answers", 0))
        gauges["llm_unfaithful_answers"].labels(*key, kind).set(counts.get("unfaithful", 0))
    for name in _LLM:
        gauges[name].labels(*key).set(0 if run.llm is None else getattr(run.llm, name.removeprefix("llm_")))


def _set_producers(gauges: Mapping[str, Gauge], run: RunRecord) -> None:
    for name, producer in run.producers.items():
        key = (run.config, name)
        is_complete = producer.state in (ProducerState.MADE, ProducerState.CURRENT)
        gauges["producer_complete"].labels(*key).set(is_complete)
        gauges["producer_texts_absent"].labels(*key).set(producer.absent)
        if is_complete:
            gauges["producer_success_timestamp_seconds"].labels(*key).set(_finished(run))
        for side, count in (("users", producer.users), ("items", producer.items)):
            if count is not None:
                gauges["producer_owners"].labels(*key, side).set(count)


def _finished(run: RunRecord) -> float:
    return datetime.fromisoformat(run.finished_at).timestamp()
