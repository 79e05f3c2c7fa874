"""From sampled stacks to the steps of a request.

A stack belongs to the step of its innermost frame that the table knows: what is called from a step is part of it. Only
the exposure log is told by any of its frames, because it uses what requests use. The table names files and functions of
the service: when one is renamed, its samples fall to the step around it, at last to "everything else".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

ELSE = "everything else"
EXPOSURE_STEP = "exposures: made, queued, written"

STEPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("HTTP: connection, head, routing, sending", (
        "(uvicorn/protocols/", "(starlette/responses.py", "(starlette/requests.py", "(service/api/fast_path.py",
    )),
    ("body: read, parsed, checked", ("read_body (", "_parsed (", "(service/api/parsing.py")),
    ("arms of experiments", ("(service/ab/", "ArmSettings.", "ArmPlan.")),
    ("Redis: round trip", (
        "(service/redis.py", "_choose_arms_and_read_user (", "Ranker._user (", "RedisUserFeatures.fetch (",
    )),
    ("the user's records decoded", (
        "(service/features/users.py", "unpack_history (", "KnowledgeRecord.", "UserProfile.",
        "(models/contract/profile.py",
    )),
    ("candidates found in the item table", ("Slate.build (", "ItemTable.rows_of (")),
    ("the user encoded", ("UserBatch.", "encode_users (", "ItemTable.rows_of_hashes (")),
    ("ONNX Runtime", ("(onnxruntime/", "_answers (")),
    ("scores gathered and checked", ("(service/scoring.py", "(models/split_model.py")),
    ("ordering", (
        "(service/ranking/exploring.py", "ScoredSlate.reranked (", "apply_boosts (", "Slate.seen (", "Slate.priors (",
        "order_by (", "merge_orders (",
    )),
    ("answer: made and encoded", (
        "(service/api/answers.py", "RankAnswer", "count_knowledge (", "(service/ranking/types.py",
    )),
    ("counters and stopwatch", ("AnswerLog._count (", "Stopwatch.", "(prometheus_client/")),
    (EXPOSURE_STEP, ("(service/ranking/answer_log.py", "(models/contract/exposures.py")),
    ("the ranker itself, deadlines", (
        "(service/ranking/ranker.py", "(service/ranking/candidates.py", "(service/ranking/deadline.py",
        "(service/api/routes.py", "(asyncio/timeouts.py",
    )),
    ("event loop and system calls", ("Runner.run (asyncio/runners.py", "(uvicorn/server.py", "(uvicorn/_compat.py")),
)  # fmt: skip
"""What an earlier step knows, a later one does not get."""

_THREAD = re.compile(r"thread \(.*?\): ?[^;]*;?")


_RESTING = ("_worker (concurrent/futures/thread.py", "(threading.py", "(selectors.py", "(queue.py")
"""Innermost frames of threads that wait for work: a sample that does not stop the process may take them for busy."""


def step_of(frames: list[str]) -> str:
    """The step of one stack, from its outermost frame to its innermost."""
    if any("(service/exposures.py" in frame for frame in frames):
        return EXPOSURE_STEP
    for frame in reversed(frames):
        for step, known in STEPS:
            if any(part in frame for part in known):
                return step
    return ELSE


def shares(lines: Iterable[str]) -> dict[str, float]:
    """Step -> part of all samples of threads at work, largest first, from py-spy's raw output: "frame;frame COUNT" by
    line."""
    counts: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        frames = [frame for frame in _THREAD.sub("", stack).split(";") if frame]
        if frames and any(resting in frames[-1] for resting in _RESTING):
            continue
        counts[step_of(frames)] += int(count)
    return {step: count / counts.total() for step, count in counts.most_common()}
