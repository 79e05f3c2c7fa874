"""Steps of the ranker that need another reranker or other arms than the service has: plain objects behind the ports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from service.ranking.candidates import FORCED_TOP_N
from service.ranking.deadline import Deadline
from service.ranking.degraded import RerankError
from service.ranking.types import ArmPlan, ArmSettings, Head, RankRequest, RerankMode
from tests.service.conftest import Running


class Reversing:
    """A reranker that reverses the head, or answers what it is told to."""

    def __init__(self, answer: Sequence[int] | None = None) -> None:
        self.answer = answer
        self.heads: list[list[str]] = []

    async def rerank(self, head: Head, deadline: Deadline) -> Sequence[int]:
        self.heads.append(list(head.ids))
        if self.answer == [-1]:
            raise RerankError("no verdict")
        if self.answer == [-2]:
            raise ZeroDivisionError("a mistake of the reranker's")
        return self.answer if self.answer is not None else list(reversed(range(len(head.ids))))


class Fixed:
    """Experiments with one plan."""

    keeps_arms = False
    releases = ()

    def __init__(self, plan: ArmPlan) -> None:
        self.plan = plan

    def assign(self, unit: str, forced: object, now: float, sticky_arms: object = None) -> ArmPlan:
        return self.plan


REQUEST = RankRequest("r", "u", tuple("abcde"))


async def _rank(service: Running, reranker: Reversing, request: RankRequest, top_n: int) -> tuple[str, tuple[str, ...]]:
    ranker = service.app.state.service.ranker
    ranker.reranker = reranker
    plans = Fixed(ArmPlan(settings=ArmSettings(rerank_top_n=top_n)))
    ranker.experiments = lambda: plans
    answer = await ranker.rank(request, Deadline(60))
    return "".join(answer.ids), answer.degraded


async def test_only_the_head_is_rearranged(service: Running) -> None:
    plain, _ = await _rank(service, Reversing(), REQUEST, 0)
    reranker = Reversing()
    order, degraded = await _rank(service, reranker, REQUEST, 3)
    assert order == plain[2::-1] + plain[3:]
    assert degraded == ()
    assert reranker.heads == [list(plain[:3])]


async def test_off_and_force(service: Running) -> None:
    plain, _ = await _rank(service, Reversing(), REQUEST, 0)
    assert (await _rank(service, Reversing(), replace(REQUEST, rerank=RerankMode.OFF), 3))[0] == plain
    assert (await _rank(service, Reversing(), replace(REQUEST, rerank=RerankMode.FORCE), 0))[0] == plain[::-1]
    many = replace(REQUEST, rerank=RerankMode.FORCE, candidates=tuple(f"x{at}" for at in range(50)))
    reranker = Reversing()
    await _rank(service, reranker, many, 0)
    assert len(reranker.heads[0]) == FORCED_TOP_N


@pytest.mark.parametrize("answer", [[-1], [-2], [], [0], [0, 1, 1], [1, 2, 3], [0, 1, 2, 3], [0, -1, 1]])
async def test_what_is_no_permutation_is_the_rerankers_failure(service: Running, answer: list[int]) -> None:
    plain, _ = await _rank(service, Reversing(), REQUEST, 0)
    order, degraded = await _rank(service, Reversing(answer), REQUEST, 3)
    assert order == plain
    assert degraded == ("no_rerank", "rerank_failed")


def test_a_deadline_is_one_moment() -> None:
    now = [100.0]
    deadline = Deadline(2.0, clock=lambda: now[0])
    assert not deadline.spent
    assert deadline.share(0.5).remaining() == pytest.approx(1.0)
    now[0] = 101.5
    assert deadline.remaining() == pytest.approx(0.5)
    now[0] = 103.0
    assert deadline.spent
    assert deadline.remaining() == 0.0
    assert deadline.share(0.5).spent
