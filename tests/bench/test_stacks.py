"""Samples of py-spy and the steps they belong to."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.serving.stacks import ELSE, EXPOSURE_STEP, STEPS, shares, step_of

ROOT = Path(__file__).parents[2]
RANK = [
    "Runner.run (asyncio/runners.py:118)",
    "rank (service/api/routes.py:63)",
    "Ranker.rank (service/ranking/ranker.py:74)",
]


@pytest.mark.parametrize(
    ("frames", "step"),
    [
        (RANK, "the ranker itself, deadlines"),
        ([*RANK, "OnnxScorer.run (service/scoring.py:9)"], "scores gathered and checked"),
        (
            [*RANK, "OnnxScorer.run (service/scoring.py:9)", "Session.run (onnxruntime/capi/x.py:1)"],
            "ONNX Runtime",
        ),
        (
            [*RANK, "UserBatch.single (models/x.py:4)", "searchsorted (numpy/x.py:1)"],
            "the user encoded",
        ),
        (["Runner.run (asyncio/runners.py:118)"], "event loop and system calls"),
        (
            [
                "ExposureLog._run (service/exposures.py:1)",
                "PipelinedConnection.exchange (service/redis.py:9)",
            ],
            EXPOSURE_STEP,
        ),
        (["something (else.py:1)"], ELSE),
        ([], ELSE),
    ],
)
def test_a_stack_is_of_its_innermost_known_frame(frames: list[str], step: str) -> None:
    assert step_of(frames) == step


def test_shares_add_up_and_threads_are_no_frames() -> None:
    lines = [
        f"thread (12): MainThread;{';'.join(RANK)} 6",
        "thread (13): asyncio_0;run (a b.py:1);Session.run (onnxruntime/capi/x.py:1) 3",
        "thread (12): MainThread 1",
        "thread (14): asyncio_1;run (a b.py:1);_worker (concurrent/futures/thread.py:81) 90",
    ]
    assert shares(lines) == {"the ranker itself, deadlines": 0.6, "ONNX Runtime": 0.3, ELSE: 0.1}


def test_the_table_names_files_that_there_are() -> None:
    known = [
        part.strip("(") for _, each in STEPS for part in each if part.startswith("(") and part.endswith((".py", "/"))
    ]
    ours = [part for part in known if part.startswith(("service/", "models/"))]
    assert len(ours) > 10
    assert [part for part in ours if not (ROOT / part).exists()] == []
