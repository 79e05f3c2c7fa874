"""Whatever bytes come from Redis, from a model server or from the environment, they are read or refused by the error
that is documented."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import hiredis
import httpx2
from hypothesis import example, given
from hypothesis import strategies as st

from models.contract.prompts import PromptParts
from models.redis_address import RedisAddress
from service.api.feedback import parse_feedback
from service.api.parsing import parse_rank, parse_recommend
from service.api.schemas import Limits
from service.errors import RedisUnavailable, ServiceError
from service.ranking.deadline import Deadline
from service.ranking.degraded import RerankError
from service.redis import RedisLink
from service.redis_slots import SlotTable, redirection
from service.reranking.server import ModelServer
from service.settings import Settings, SettingsError
from tests.damage import FEW, damaged, unless
from tests.service.fake_redis import server
from tests.service.reranking.model_server import NO, YES

LIMITS = Limits(max_candidates=50, default_deadline_ms=100.0, max_deadline_ms=1000.0)
HOST = ("redis", 6379)

RANK = b'{"user_id":"u","candidates":[{"id":"a","features":{"genre":["drama"]}},{"id":7}],"top_k":3,"arms":{"l":"a"}}'
RECOMMEND = b'{"user_id":"u","count":9,"allow":["a","b"],"where":{"genre":["drama"]},"deadline_ms":5}'
FEEDBACK = b'{"events":[{"user_id":"u","item_id":"a","value":5,"timestamp_ms":1700000000000}],"request_id":"r"}'

SLOTS = (
    b"*2\r\n*3\r\n:0\r\n:8191\r\n*3\r\n$5\r\nredis\r\n:6379\r\n$2\r\nid\r\n"
    b"*3\r\n:8192\r\n:16383\r\n*2\r\n$0\r\n\r\n:7\r\n"
)
REPLIES = (b"$5\r\nthree\r\n:7\r\n", b"+OK\r\n*2\r\n$1\r\na\r\n$-1\r\n", b"-MOVED 3 redis:7\r\n-LOADING no\r\n")

SCORES = json.dumps({"data": [{"index": 1, "score": 0.25}, {"index": 0, "score": 0.5}]}).encode()
CHOICES = json.dumps(
    {
        "choices": [
            {"index": at, "logprobs": {"top_logprobs": [{f"token_id:{YES}": -0.5, f"token_id:{NO}": -1.5}]}}
            for at in range(2)
        ]
    }
).encode()


@FEW
@given(damaged(RANK))
def test_bodies_of_rankings(raw: bytes) -> None:
    unless(ServiceError, parse_rank, raw, LIMITS)


@FEW
@given(damaged(RECOMMEND))
def test_bodies_of_recommendations(raw: bytes) -> None:
    unless(ServiceError, parse_recommend, raw, LIMITS)


@FEW
@given(damaged(FEEDBACK, FEEDBACK[11:84]))
def test_bodies_of_feedback(raw: bytes) -> None:
    unless(ServiceError, parse_feedback, raw, None, ())


@FEW
@given(
    st.sampled_from([f"LORANK_{name.upper()}" for name in Settings.model_fields]),
    damaged(b"8000", b"redis://u:p@redis:6379/3", b"lorank:books", b"0.5"),
)
def test_settings(name: str, value: bytes) -> None:
    settings = unless(SettingsError, Settings.from_environment, {name: value.decode("utf-8", "surrogateescape")})
    assert settings is None or isinstance(settings, Settings)


@FEW
@given(damaged(b"redis://u:p@redis:6379/3", b"redis+cluster://a:1,b,c:3", b"rediss+sentinel://u:p@a:1,[::1]:2/main/3"))
def test_addresses_of_redis(url: bytes) -> None:
    unless(ValueError, RedisAddress.parse, url.decode("utf-8", "surrogateescape"))


@FEW
@given(damaged(SLOTS))
@example(SLOTS.replace(b"$5\r\nredis", b":5"))
@example(SLOTS.replace(b":8191", b":1000000000000"))
def test_slots_of_a_cluster(reply: bytes) -> None:
    reader = hiredis.Reader()
    reader.feed(reply)
    table = SlotTable.of_reply(unless(hiredis.ProtocolError, reader.gets), HOST)
    assert table is None or table.shards


@FEW
@given(damaged(b"MOVED 3 redis:7", b"ASK 16383 :6379"))
def test_redirections_in_a_cluster(refusal: bytes) -> None:
    unless(ValueError, redirection, refusal.decode("utf-8", "replace"), HOST)


@FEW
@given(damaged(*REPLIES))
def test_replies_of_redis(reply: bytes) -> None:
    async def story() -> None:
        async with server(lambda _: reply) as port:
            link = RedisLink(f"redis://127.0.0.1:{port}", 1)
            replies = None
            try:
                replies = await link.round_trip([("GET", "a"), ("GET", "b")], Deadline(0.2))
            except RedisUnavailable:
                assert replies is None
            else:
                assert len(replies) == 2
            await link.close()

    asyncio.run(story())


@FEW
@given(damaged(SCORES), damaged(CHOICES))
@example(SCORES.replace(b"1,", b"1e999,"), CHOICES.replace(b"1,", b"1e999,"))
@example(SCORES.replace(b"0.5", b"9" * 400), CHOICES.replace(b"-0.5", b"9" * 400))
@example(b"[" * 100_000, b"[" * 100_000)
def test_answers_of_a_model_server(scores: bytes, choices: bytes) -> None:
    for scored in (True, False):

        def answer(request: httpx2.Request, scored: bool = scored) -> httpx2.Response:
            if request.url.path == "/generative_scoring":
                return httpx2.Response(200, content=scores) if scored else httpx2.Response(404, content=b"")
            return httpx2.Response(200, content=choices)

        probabilities = asyncio.run(_asked(answer))
        assert probabilities is None or all(0.0 <= each <= 1.0 for each in probabilities)


async def _asked(answer: Any) -> Any:
    """Probabilities by a server that answers so; None if they are no verdict."""
    model = ModelServer("http://model", "tiny", at_once=2)
    await model.close()
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as model._http:
        try:
            return await model.probabilities([PromptParts("u", "a"), PromptParts("u", "b")], (YES, NO))
        except RerankError:
            return None
