"""Large bodies that are wrong everywhere: refused at the first error, off the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from models.contract.ids import NOBODY
from service.api import parsing
from service.api.feedback import parse_feedback
from service.api.routes import INLINE_BYTES
from service.api.schemas import MAX_EVENTS
from service.errors import InvalidRequest
from tests.service.conftest import Running, eventually

KEYS = b",".join(b'"k%d":0' % at for at in range(90_000))


def _rank_body(candidates: bytes, more: bytes = b"") -> bytes:
    return b'{"request_id":"large","user_id":"1","candidates":[' + candidates + b"]" + more + b"}"


RANK_BODIES = {
    "numbers": (_rank_body(b"0," * 500_000 + b"0"), "candidates[0]"),
    "empty objects": (_rank_body(b"{}," * 325_000 + b"{}"), "candidates[0].id"),
    "valid but too many": (_rank_body(b'{"id":1},' * 116_000 + b'{"id":1}'), "candidates"),
    "unknown keys": (_rank_body(b'{"id":1}', b"," + KEYS), "k0"),
    "unknown keys of a candidate": (_rank_body(b'{"id":1},{"id":1,' + KEYS + b"}"), "candidates[1].k0"),
    "features of a candidate": (_rank_body(b'{"id":1,"features":{' + KEYS + b"}}"), "candidates[0].features"),
    "context": (_rank_body(b'{"id":1}', b',"context":{' + KEYS + b"}"), "context"),
    "arms": (_rank_body(b'{"id":1}', b',"arms":{' + KEYS + b"}"), "arms.k0"),
}
FEEDBACK_BODIES = {
    "numbers": (b'{"events":[' + b"0," * 500_000 + b"0]}", "events[0]"),
    "too many": (b'{"events":[' + (b'{"user_id":1,"item_id":1,"value":1},' * MAX_EVENTS * 12)[:-1] + b"]}", "events"),
    "unknown keys": (b'{"events":[{' + KEYS + b"}]}", "events[0].k0"),
    "unknown keys of a bare event": (b'{"item_id":1,' + KEYS + b"}", "k0"),
}


def _refusal(parse: Callable[..., object], *arguments: object) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        parse(*arguments)
    return refused.value


@pytest.mark.parametrize(("raw", "field"), FEEDBACK_BODIES.values(), ids=FEEDBACK_BODIES)
def test_a_wrong_feedback_body_is_refused_at_its_first_error(raw: bytes, field: str) -> None:
    assert _refusal(parse_feedback, raw, None, NOBODY).field == field


@pytest.mark.parametrize(("raw", "field"), RANK_BODIES.values(), ids=RANK_BODIES)
async def test_a_wrong_rank_body_is_refused_at_its_first_error_and_others_are_answered_meanwhile(
    service: Running, monkeypatch: pytest.MonkeyPatch, raw: bytes, field: str
) -> None:
    entered, others_answered = threading.Event(), threading.Event()
    waited: list[bool] = []

    def waiting(parse: Callable[..., Any]) -> Callable[..., Any]:
        def parse_when_others_are_answered(*arguments: Any) -> Any:
            entered.set()
            waited.append(others_answered.wait(10))
            return parse(*arguments)

        return parse_when_others_are_answered

    monkeypatch.setattr(parsing, "parse_rank", waiting(parsing.parse_rank))
    monkeypatch.setattr(parsing, "request_id_in", waiting(parsing.request_id_in))
    assert len(raw) > INLINE_BYTES
    wrong = asyncio.create_task(service.http.post("/v1/rank", content=raw))
    await eventually(entered.is_set)
    assert (await service.http.get("/healthz")).status_code == 200
    assert not wrong.done()
    others_answered.set()
    response = await wrong
    assert waited == [True, True]  # parsed, and searched for its request id, beside the event loop
    assert response.status_code == 422
    assert response.json()["error"]["field"] == field
    assert response.json()["error"]["request_id"] == "large"
