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
EXPOSURES = "exposures: made, queued, written"

STEPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("HTTP: connection, head, routing, sending", (
        "(uvicorn/protocols/", "(starlette/responses.py", "(starlette/requests.py", "(service/api/fast_path.py",
    )),
    ("body: read, parsed, checked", (
        "read_body (", "_parsed (", "(service/api/parsing.py", "(service/api/decoding.py", "(service/api/bodies.py",
    )),
    ("arms of experiments", ("(service/ab/", "(service/ranking/plan.py")),
    ("Redis: round trip", (
        "(service/features/connection.py", "(service/features/wire.py", "_plan_and_user (", "Ranker._user (",
        "RedisUserFeatures.fetch (",
    )),
    ("the user's records decoded", (
        "(service/features/users.py", "unpack_history (", "KnowledgeRecord.", "UserProfile.",
        "(models/contract/profile.py",
    )),
    ("candidates found in the item table", ("(service/ranking/slate.py", "ItemTable.rows_of (")),
    ("the user encoded", ("UserBatch.", "encode_users (", "ItemTable.rows_of_hashes (", "prepared (")),
    ("ONNX Runtime", ("(onnxruntime/", "_answers (")),
    ("scores gathered and checked", ("(service/scoring.py", "(models/split_model.py")),
    ("ordering", (
        "(service/ranking/ordering.py", "(service/ranking/head.py", "scored (", "composed (", "_composed (",
        "Ranker._rerank (",
    )),
    ("answer: made and encoded", (
        "(service/api/answers.py", "RankAnswer", "knowledge_of (", "count_knowledge (", "(service/ranking/types.py",
    )),
    ("counters and stopwatch", (
        "(service/ranking/counting.py", "(service/ranking/stopwatch.py", "(prometheus_client/",
    )),
    (EXPOSURES, ("Ranker._expose (", "(service/ranking/exposing.py", "(models/contract/exposures.py")),
    ("the ranker itself, deadlines", (
        "(service/ranking/ranker.py", "(service/ranking/deadline.py", "(service/api/routes.py", "(asyncio/timeouts.py",
    )),
    ("event loop and system calls", ("Runner.run (asyncio/runners.py", "(uvicorn/server.py", "(uvicorn/_compat.py")),
)  # fmt: skip
"""What an earlier step knows, a later one does not get."""

_THREAD = re.compile(r"thread \(.*?\): ?[^;]*;?")


_RESTING = ("_worker (concurrent/futures/thread.py", "(threading.py", "(selectors.py", "(queue.py")
"""Innermost frames of threads that wait for work: a sample that does not stop the process may take them for busy."""


def step_of(frames: list[str]) -> str:
    """The step of one stack, from its outermost frame to its innermost."""
    if any("(service/exposures/" in frame for frame in frames):
        return EXPOSURES
    for frame in reversed(frames):
        for step, known in STEPS:
            if any(one in frame for one in known):
                return step
    return ELSE


def shares(lines: Iterable[str]) -> dict[str, float]:
    """Step -> part of all samples of threads at work, largest first, from py-spy's raw output: "frame;frame COUNT" by
    line."""
    found: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        frames = [frame for frame in _THREAD.sub("", stack).split(";") if frame]
        if frames and any(one in frames[-1] for one in _RESTING):
            continue
        found[step_of(frames)] += int(count)
    return {step: count / found.total() for step, count in found.most_common()}
