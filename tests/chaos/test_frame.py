"""The frame of the troubles: callers notice what is wrong, goals are judged, and the page says both."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import page
from tests.chaos.rows import ROWS, Goal, Outcome, Row
from tests.chaos.stand import eventually
from tests.chaos.traffic import Traffic, users
from tests.service.tiny import ITEMS

KNOWN = users(3)
ITEM = {item.id: item for item in ITEMS}

Answer = Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]


@contextmanager
def service(answer: Answer) -> Iterator[int]:
    """A server that answers rankings as it is told; its port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(*answer(body))

        def do_GET(self) -> None:
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


def test_the_page_has_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_: object) -> Outcome:
        raise AssertionError

    rows = [
        Row("calm", "Weather", "nothing happens", Goal(), never, short=True),
        Row("storm", "Weather", "a storm", Goal(), never, floor="storms are stronger"),
        Row("quake", "Earth", "the earth quakes", Goal(), never),
        Row("moon", "Earth", "the moon falls", Goal(), never),
    ]
    monkeypatch.setattr(page, "ROWS", {row.name: row for row in rows})
    calm = Outcome(requests=1200, calm_p99_ms=2.0, trouble_p99_ms=3.0, recovery_seconds=0.0, accepted=7)
    page.save("calm", 4.0, calm, tmp_path)
    page.save("storm", 4.0, Outcome(requests=10, failed=3, degraded=("no_features",), remark="wet"), tmp_path)
    page.save("moon", 0.0, Outcome(done=False, remark="no rights"), tmp_path)
    page.write_page(tmp_path / "page.md", tmp_path)
    lines = (tmp_path / "page.md").read_text().splitlines()
    assert "| nothing happens * | 1,200 | 0 | 0 | 0 | 0 | 1.5 | 0.0 | 0 of 7 |  | met |" in lines
    assert "| a storm | 10 | 3 | 0 | 0 | 0 |  |  |  | `no_features`; wet | **missed**: 3 failed, no_features |" in lines
    assert "- *a storm*: storms are stronger" in lines
    assert [line for line in lines if line.startswith("## ")] == ["## Weather", "## Earth"]
    assert any(line.startswith("| the earth quakes |") and line.endswith("| not run |") for line in lines)
    assert any(
        line.startswith("| the moon falls |") and line.endswith("| no rights | not done here |") for line in lines
    )
    assert any(line.startswith("2 of 4 rows are filled, 1,210 requests") for line in lines)


def test_rows_are_told_apart() -> None:
    assert len({row.trouble for row in ROWS.values()}) == len(ROWS)
