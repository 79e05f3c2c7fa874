"""Errors of a body say in words of our own what the field must be."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from models.contract.ids import NOBODY
from service.api.feedback import parse_feedback
from service.api.parsing import parse_rank, parse_recommend
from service.api.schemas import Limits
from service.errors import InvalidRequest

LIMITS = Limits(max_candidates=50, default_deadline_ms=100.0, max_deadline_ms=1000.0)
RANK = {"user_id": "u", "candidates": [{"id": "a"}]}
EVENT = {"user_id": "u", "item_id": "a", "value": 5}

BODIES: list[tuple[Callable[..., object], Any, str, str]] = [
    (parse_rank, [], "body", "must be an object, not a list"),
    (parse_rank, {"candidates": [{}]}, "candidates[0].id", "must be there"),
    (parse_rank, {"candidates": [{"id": ""}]}, "candidates[0].id", "must have 1 to 256 bytes in UTF-8"),
    (parse_rank, RANK | {"candidates": [{"id": None}]}, "candidates[0].id", "must be a whole number or text, not null"),
    (parse_rank, RANK | {"user_id": "x" * 257}, "user_id", "must have 1 to 256 bytes in UTF-8"),
    (parse_rank, RANK | {"unit": 1.5}, "unit", "must be a whole number, text or null, not a decimal number"),
    (parse_rank, RANK | {"candidates": []}, "candidates", "must have at least 1 entry"),
    (parse_rank, RANK | {"context": {"x": [0] * 257}}, "context.x", "must have at most 256 entries"),
    (parse_rank, RANK | {"context": {"x": float("nan")}}, "context.x", "must be a finite number"),
    (parse_rank, RANK | {"context": {"x": 2**63}}, "context.x", "must be at most 9223372036854775807"),
    (parse_rank, RANK | {"arms": {"": "x"}}, 'arms[""]', "must not be empty"),
    (parse_rank, RANK | {"top_k": 0}, "top_k", "must be at least 1"),
    (parse_rank, RANK | {"deadline_ms": 0}, "deadline_ms", "must be more than 0"),
    (parse_rank, RANK | {"rerank": "please"}, "rerank", "must be one of 'auto', 'off', 'force'"),
    (parse_rank, RANK | {"request_id": "two\n"}, "request_id", "must be 1 to 128 visible ASCII characters"),
    (parse_rank, RANK | {"topk": 3}, "topk", "is no field here; did you mean top_k?"),
    (
        parse_rank,
        {"candidates": [{"id": "a", "score": 1}]},
        "candidates[0].score",
        "is no field here; there are id, features",
    ),
    (parse_recommend, {"deny": ["a", ""]}, "deny[1]", "must have 1 to 256 bytes in UTF-8"),
    (parse_feedback, EVENT | {"value": "5"}, "value", "must be a number or null, not text"),
    (parse_feedback, EVENT | {"value": 1e30}, "value", "must be at most 1000000000"),
    (parse_feedback, EVENT | {"type": "x" * 65}, "type", "must have at most 64 characters"),
    (parse_feedback, EVENT | {"timestamp": 5}, "timestamp", "is no field here; did you mean timestamp_ms?"),
    (parse_feedback, {"events": [{**EVENT, "valu": 5}]}, "events[0].valu", "is no field here; did you mean value?"),
]


@pytest.mark.parametrize(("parse", "body", "field", "message"), BODIES)
def test_an_error_says_what_the_field_must_be(
    parse: Callable[..., object], body: Any, field: str, message: str
) -> None:
    arguments = (None, NOBODY) if parse is parse_feedback else (LIMITS,)
    with pytest.raises(InvalidRequest) as refusal:
        parse(json.dumps(body).encode(), *arguments)
    assert (refusal.value.field, str(refusal.value)) == (field, message)
