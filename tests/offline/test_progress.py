"""Progress: nothing of short work in a log, a readable line now and then of long work, a bar on a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from offline import progress
from offline.progress import LINE_SECONDS, Progress, duration


class Clock:
    """Seconds that pass only when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_long_work_has_a_line_now_and_then_in_a_log(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("  items", 1100, "prompts", done=100) as work:
        for _ in range(4):
            clock.now += LINE_SECONDS * 0.75
            work.advance(100, "100 from cache")
        clock.now += LINE_SECONDS / 3
        work.advance(100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "  items: 300 of 1,100 prompts, 27%, about 3 min left (100 from cache)",
        "  items: 500 of 1,100 prompts, 45%, about 2 min left (100 from cache)",
        "  items: 600 of 1,100 prompts, 55%, about 2 min left (100 from cache)",
    ]


def test_a_log_sees_that_work_goes_on_before_the_first_unit_is_done(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("items", 1100, "prompts") as work:
        for _ in range(4):
            clock.now += LINE_SECONDS / 2
            work.tick()
    assert capsys.readouterr().err.splitlines() == [
        "  items: 0 of 1,100 prompts, 0%, 30 s so far",
        "  items: 0 of 1,100 prompts, 0%, 60 s so far",
    ]


def test_short_work_leaves_a_log_alone(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("encode", 10, "texts") as work:
        work.advance(10)
    with Progress("encode", 10, "texts", shown=False) as work:
        clock.now += 10 * LINE_SECONDS
        work.advance(10)
    assert capsys.readouterr().err == ""


def test_what_ended_early_has_nothing_left(clock: Clock) -> None:
    work = Progress("din", 100, "batches")
    work.advance(40)
    assert work.line(80.0) == "din: 40 of 100 batches, 40%, about 2 min left"
    work.end_early()
    assert work.line(80.0) == "din: 40 of 40 batches, 100%"
    assert Progress("nothing", 0, "texts").line(1.0) == "nothing: 0 of 0 texts"


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("items", 4, "prompts", done=1) as work:
        work.advance(3, "1 from cache, 3 paid")
    shown = terminal.getvalue().split("\r")[-1]
    assert "items: 100%" in shown
    assert "4/4" in shown
    assert "1 from cache, 3 paid" in shown


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (89, "89 s"), (600, "10 min"), (12_000, "3 h 20 min"), (190_000, "2 d 4 h")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
