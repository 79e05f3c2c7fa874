"""The ledger file: old lines, torn lines, several lines of a run, and the speed of a model."""

import json
from pathlib import Path

from offline.llm.ledger import Ledger, read_ledger, tokens_per_second

OLD = (
    '{"run": "knowledge", "model_id": "tiny", "price_prompt_per_million": 0.5, "price_completion_per_million": 0.0,'
    ' "prompts": 6286, "duplicates": 18, "cache_hits": 6268, "paid": 3, "calls": 3, "retries": 0, "failures": 0,'
    ' "prompt_tokens": 4000000, "completion_tokens": 0, "seconds": 0.1, "cost": 2.0,'
    ' "finished_at": "2025-01-01T10:00:00+00:00"}'
)


def test_lines_of_older_versions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    failed = json.dumps({**json.loads(OLD), "failures": 2})
    newer = json.dumps({**json.loads(OLD), "run_id": "r1", "status": "partial", "colour": "red", "absent": 4})
    path.write_text(f"{OLD}\n{failed}\n{newer}\n")
    first, second, third = read_ledger(path)
    assert (first.run, first.status, first.absent, first.job, first.cost) == ("knowledge", "done", 0, "", 2.0)
    assert first.finished_at == "2025-01-01T10:00:00+00:00"
    assert second.status == "failed"
    assert (third.status, third.absent, third.run_id) == ("partial", 4, "r1")
    assert read_ledger(tmp_path / "absent") == []


def test_half_a_line_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text(f"{OLD}\n[]\n{OLD[:50]}")
    Ledger("next", "tiny").append_to(path)
    assert [run.run for run in read_ledger(path)] == ["knowledge", "next"]


def test_of_a_run_with_several_lines_the_last_counts(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    for name, status in (("a", "done"), ("b", "done"), ("a", "failed")):
        Ledger.parse(json.dumps({"run": name, "model_id": "tiny", "run_id": name, "status": status})).append_to(path)
    assert [(run.run, run.status) for run in read_ledger(path)] == [("a", "failed"), ("b", "done")]


def test_speed_is_that_of_the_same_model_lately() -> None:
    runs = [Ledger("old", "tiny", completion_tokens=10, seconds=10.0)]
    runs += [Ledger("new", "tiny", completion_tokens=100, seconds=2.0) for _ in range(20)]
    runs += [Ledger("cached", "tiny", seconds=5.0), Ledger("other", "big", completion_tokens=7, seconds=7.0)]
    assert tokens_per_second(runs, "tiny") == 50.0
    assert tokens_per_second(runs, "big") == 1.0
    assert tokens_per_second(runs, "unknown") is None
