"""The frame of the troubles: callers notice what is wrong, goals are judged, and the page says both."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import __main__ as program
from tests.chaos import page
from tests.chaos.on_soak import Sample, growth
from tests.chaos.rows import ROWS, Goal, Outcome, Row
from tests.chaos.stand import eventually
from tests.chaos.traffic import Traffic, users
from tests.service.tiny import ITEMS

KNOWN = users(3)
ITEM = {item.id: item for item in ITEMS}

Answer = Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]


def never(_: object) -> Outcome:
    """A row that is not made."""
    raise AssertionError


@contextmanager
def service(answer: Answer, probe_seconds: float = 0.0) -> Iterator[int]:
    """A server that answers rankings as it is told, and probes after a time; its port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(*answer(body))

        def do_GET(self) -> None:
            time.sleep(probe_seconds)
            self._send(200, {})

        def _send(self, status: int, document: dict[str, Any]) -> None:
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def ranked(user_at: int, *, history: bool = True, knowledge: bool = True, words: tuple[str, ...] = ()) -> Answer:
    """Answers with the scores of one user, whoever asks."""

    def answer(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        scores = {
            each["id"]: KNOWN[user_at].scores(ITEM[each["id"]])[history, knowledge] for each in body["candidates"]
        }
        best_first = sorted(scores.items(), key=lambda entry: -entry[1])
        items = [{"id": item, "score": score} for item, score in best_first]
        return 200, {"items": items, "degraded": list(words)}

    return answer


def _one_item_too_few(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    status, document = ranked(0)(body)
    return status, document | {"items": document["items"][1:]}


def _worst_first(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    status, document = ranked(0)(body)
    return status, document | {"items": document["items"][::-1]}


def _not_understood(_: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return 200, {"items": None}


def _refused(_: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return 429, {"error": {"code": "overloaded", "retry_after_ms": 100}}


def _broken(_: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return 500, {"error": {"code": "internal"}}


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (ranked(0), "well"),
        (ranked(0, words=("no_knowledge",)), "degraded"),
        (ranked(0, knowledge=False, words=("no_knowledge",)), "degraded"),
        (ranked(0, knowledge=False), "unsaid"),
        (ranked(0, history=False), "unsaid"),
        (ranked(1), "wrong"),
        (ranked(1, knowledge=False, words=("no_knowledge",)), "wrong"),
        (_one_item_too_few, "wrong"),
        (_worst_first, "wrong"),
        (_not_understood, "wrong"),
        (_refused, "refused"),
        (_broken, "failed"),
    ],
)
def test_callers_notice_what_they_get(answer: Answer, verdict: str) -> None:
    with service(answer) as port, Traffic(port, KNOWN[:1], callers=1) as traffic:
        eventually(lambda: len(traffic.answers) >= 5, "no answers")
    assert {answered.verdict for answered in traffic.answers} == {verdict}


def test_an_outcome_is_of_what_came_since_the_trouble_began() -> None:
    answers = [ranked(0)]
    with service(lambda body: answers[-1](body)) as port, Traffic(port, KNOWN[:1], callers=2) as traffic:
        eventually(lambda: len(traffic.answers) >= 5, "no answers")
        with traffic.trouble():
            answers.append(ranked(0, history=False, words=("no_features",)))
            before = len(traffic.answers)
            eventually(lambda: len(traffic.answers) >= before + 10, "no answers")
        answers.append(ranked(0))
        traffic.settle()
    outcome = traffic.outcome(remark="so it was")
    assert outcome.degraded == ("no_features",)
    assert (outcome.failed, outcome.wrong, outcome.unsaid, outcome.refused) == (0, 0, 0, 0)
    assert 8 <= outcome.requests < len(traffic.answers)
    assert outcome.recovery_seconds is not None
    assert outcome.added is not None
    assert outcome.remark == "so it was"


def test_a_service_that_never_recovers_misses_its_goal() -> None:
    """Also where the words that its answers have are allowed while the trouble lasts."""
    answer = ranked(0, history=False, words=("no_features",))
    with service(answer) as port, Traffic(port, KNOWN[:1], callers=1) as traffic:
        with traffic.trouble():
            eventually(lambda: traffic.answers, "no answers")
        traffic.settle(1.5)
    goal = Goal(words=frozenset({"no_features"}))
    assert goal.missed_by(traffic.outcome()) == ["not as before after 1.5 s"]


def test_a_trouble_that_nobody_asked_in_misses_its_goal() -> None:
    traffic = Traffic(0, KNOWN)
    with traffic.trouble():
        pass
    assert Goal().missed_by(traffic.outcome()) == ["nobody was answered"]


def test_a_goal_says_what_is_beyond_it() -> None:
    goal = Goal(words=frozenset({"no_features"}), refused=2, unsaid=None)
    assert goal.missed_by(Outcome(requests=9, refused=2, unsaid=5, degraded=("no_features",))) == []
    outcome = Outcome(
        requests=9, refused=3, wrong=1, lost=2, failed=1, probes_failed=1, tests_failed=1, degraded=("x",)
    )
    assert goal.missed_by(outcome) == [
        "1 wrong", "1 failed", "3 refused", "2 lost", "1 probes failed", "1 tests failed", "x",
    ]  # fmt: skip


def test_a_slow_probe_misses_the_goal_even_if_it_is_answered() -> None:
    assert Goal().missed_by(Outcome(probe_seconds=2.0)) == []
    assert Goal().missed_by(Outcome(probe_seconds=12.0)) == ["a probe took 12.0 s, goal 2 s"]
    assert Goal(probe_seconds=20.0).missed_by(Outcome(probe_seconds=12.0)) == []


def test_callers_note_how_long_probes_take_and_wait_for_the_last_one() -> None:
    with service(ranked(0), probe_seconds=0.6) as port, Traffic(port, KNOWN[:1], callers=1) as traffic:
        eventually(lambda: traffic.answers, "no answers")
        with traffic.trouble():
            time.sleep(0.3)  # the first probe is under way
        outcome = traffic.outcome()
    assert outcome.probe_seconds is not None
    assert outcome.probe_seconds >= 0.6
    assert outcome.probes_failed == 0


@pytest.mark.parametrize(
    ("calm_ms", "trouble_ms", "missed"),
    [
        (20.0, 190.0, []),
        (20.0, 210.0, ["p99 10.5 times that of calm, goal 10"]),
        (2.0, 29.0, []),  # as many milliseconds say nothing
        (None, 29.0, ["no p99 before and during the trouble"]),
        (20.0, None, ["no p99 before and during the trouble"]),
    ],
)
def test_others_are_not_hindered(calm_ms: float | None, trouble_ms: float | None, missed: list[str]) -> None:
    outcome = Outcome(requests=9, calm_p99_ms=calm_ms, trouble_p99_ms=trouble_ms)
    assert Goal(added=10.0).missed_by(outcome) == missed
    assert Goal().missed_by(outcome) == []


def test_a_recovery_takes_no_longer_than_its_goal() -> None:
    goal = Goal(recovery_seconds=2.0)
    assert goal.missed_by(Outcome(recovery_seconds=2.0)) == []
    assert goal.missed_by(Outcome(recovery_seconds=2.5)) == ["back after 2.5 s, goal 2 s"]
    assert goal.missed_by(Outcome()) == ["no recovery was measured"]


def test_a_floor_excuses_its_own_goals_only() -> None:
    goal = Goal(added=2.0, recovery_seconds=2.0)
    plain = Row("flood", "Weather", "a flood", goal, never, floor="rivers are slow")
    excusing = replace(plain, excuses=frozenset({"added"}))
    late = Outcome(calm_p99_ms=20.0, trouble_p99_ms=50.0, recovery_seconds=0.0)
    assert (plain.fails(late), excusing.fails(late)) == (True, False)
    for missed in (
        {"missed": ("not as before after 60 s", "nobody was answered")},
        {"recovery_seconds": 3.0},
        {"failed": 1},
        {"degraded": ("no_features",)},
    ):
        assert excusing.fails(late.model_copy(update=missed)), missed


def test_floors_excuse_goals_that_there_are() -> None:
    of_goals = {field.name for field in fields(Goal)}
    for row in ROWS.values():
        assert row.excuses <= of_goals, row.name
        assert row.floor or not row.excuses, row.name


def test_a_row_that_raises_misses_its_goal_though_it_was_met_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> Outcome:
        raise RuntimeError("no\n| luck")

    row = Row("storm", "Weather", "a storm", Goal(), broken)
    monkeypatch.setattr(page, "ROWS", {row.name: row})
    page.save(row.name, 4.0, Outcome(requests=10), tmp_path)
    assert not program._run(row, tmp_path / "stand", short=False, results=tmp_path)
    outcome = page.Page.load(tmp_path).results[row.name].outcome
    assert row.goal.missed_by(outcome) == ["RuntimeError: no / luck"]


def test_a_short_run_keeps_what_is_saved(tmp_path: Path) -> None:
    row = Row("storm", "Weather", "a storm", Goal(), never)
    assert not program._run(row, tmp_path / "stand", short=True, results=tmp_path)
    assert not (tmp_path / "storm.json").exists()


@pytest.mark.parametrize(
    ("mb_per_minute", "noise_mb", "missed"), [(0.5, 0.1, False), (1.1, 0.1, True), (1.5, 40.0, True), (0.5, 40.0, True)]
)
def test_memory_that_may_grow_beyond_its_goal_misses_it(mb_per_minute: float, noise_mb: float, missed: bool) -> None:
    """Also where noise leaves the slope open."""
    samples = [
        Sample(at / 12, 100 + mb_per_minute * at / 12 + noise_mb * (-1) ** (at // 20), 100.0, 30, 6)
        for at in range(300)
    ]
    assert bool(growth(samples)[1]) == missed


def test_the_page_has_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        Row("calm", "Weather", "nothing happens", Goal(), never, short=True),
        Row("storm", "Weather", "a storm", Goal(), never, floor="storms are stronger"),
        Row("quake", "Earth", "the earth quakes", Goal(), never),
        Row("moon", "Earth", "the moon falls", Goal(), never),
        Row("flood", "Earth", "a flood", Goal(added=2.0), never, floor="it is wet", excuses=frozenset({"added"})),
    ]
    monkeypatch.setattr(page, "ROWS", {row.name: row for row in rows})
    calm = Outcome(
        requests=1200, calm_p99_ms=2.0, trouble_p99_ms=3.0, recovery_seconds=0.0, accepted=7, probe_seconds=0.21
    )
    page.save("calm", 4.0, calm, tmp_path)
    page.save("storm", 4.0, Outcome(requests=10, failed=3, degraded=("no_features",), remark="wet"), tmp_path)
    page.save("moon", 0.0, Outcome(done=False, remark="no rights"), tmp_path)
    page.save("flood", 4.0, Outcome(requests=5, calm_p99_ms=20.0, trouble_p99_ms=60.0), tmp_path)
    page.write_page(tmp_path / "page.md", tmp_path)
    lines = (tmp_path / "page.md").read_text().splitlines()
    assert "| nothing happens * | 1,200 | 0 | 0 | 0 | 0 | 1.5 | 0.2 | 0.0 | 0 of 7 |  | met |" in lines
    assert (
        "| a storm | 10 | 3 | 0 | 0 | 0 |  |  |  |  | `no_features`; wet | **missed**: 3 failed, no_features |" in lines
    )
    assert any(
        line.startswith("| a flood | 5 | 0 | 0 | 0 | 0 | 3.0 (≤ 2) |")
        and line.endswith("| **missed** (floor below): p99 3.0 times that of calm, goal 2 |")
        for line in lines
    )
    assert "- *a storm*: storms are stronger" in lines
    assert [line for line in lines if line.startswith("## ")] == ["## Weather", "## Earth"]
    assert any(line.startswith("| the earth quakes |") and line.endswith("| not run |") for line in lines)
    assert any(
        line.startswith("| the moon falls |") and line.endswith("| no rights | not done here |") for line in lines
    )
    assert any(line.startswith("3 of 5 rows are filled, 1,215 requests") for line in lines)


def test_rows_are_told_apart() -> None:
    assert len({row.trouble for row in ROWS.values()}) == len(ROWS)
