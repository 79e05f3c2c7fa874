"""Body parsing as properties: whatever arrives is parsed, or refused with a named field; never anything else."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.api.bodies import Limits, rank_body
from service.api.decoding import decode_rank
from service.api.parsing import parse_feedback, parse_rank, request_id_in
from service.errors import InvalidRequest, MalformedRequest, ServiceError

LIMITS = Limits(max_candidates=50, default_deadline_ms=100.0, max_deadline_ms=1000.0)

ids = st.one_of(
    st.text(min_size=1, max_size=80).filter(lambda text: len(text.encode()) <= 256),
    st.integers(-(10**30), 10**30),
)
numbers = st.one_of(st.integers(-(2**63) + 1, 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False))
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=20))
features = st.dictionaries(
    st.text(min_size=1, max_size=10), st.one_of(scalars, st.lists(scalars, max_size=4)), max_size=4
)
candidates = st.fixed_dictionaries({"id": ids}, optional={"features": st.one_of(st.none(), features)})
requests = st.fixed_dictionaries(
    {"user_id": ids, "candidates": st.lists(candidates, min_size=1, max_size=8)},
    optional={
        "request_id": st.from_regex(r"[!-~]{1,128}", fullmatch=True),
        "context": features,
        "top_k": st.integers(1, 10),
        "deadline_ms": st.one_of(st.integers(1, 1000), st.floats(0.001, 1000.0)),
        "explain": st.booleans(),
        "rerank": st.sampled_from(["auto", "off", "force"]),
    },
)
anything = st.recursive(
    st.one_of(scalars, st.floats(), st.integers()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)


def _refusal(parse: Callable[..., object], *arguments: object) -> ServiceError | None:
    """The error that ``parse`` answers with; any other exception is a bug and passes through."""
    try:
        parse(*arguments)
    except ServiceError as error:
        return error
    return None


@given(requests)
def test_valid_requests_parse_to_themselves(body: dict[str, Any]) -> None:
    request, deadline_ms = parse_rank(json.dumps(body).encode(), LIMITS)
    assert request.user_id == str(body["user_id"])
    first: dict[str, Any] = {}
    for one in body["candidates"]:
        first.setdefault(str(one["id"]), one.get("features"))
    assert request.candidates == tuple(first)
    assert request.described == {item: given for item, given in first.items() if given}
    assert request.repeated == len(body["candidates"]) - len(first)
    assert request.context == body.get("context", {})
    assert request.top_k == body.get("top_k")
    assert request.explain is body.get("explain", False)
    assert deadline_ms == body.get("deadline_ms", 100.0)
    assert request.request_id == body.get("request_id", request.request_id) != ""


@given(
    requests,
    st.sampled_from(["user_id", "candidates", "top_k", "deadline_ms", "explain", "rerank", "arms", "extra"]),
    anything,
)
def test_a_replaced_field_is_parsed_or_refused_by_name(body: dict[str, Any], field: str, value: Any) -> None:
    raw = json.dumps(body | {field: value}).encode()
    refusal = _refusal(parse_rank, raw, LIMITS)
    if isinstance(refusal, InvalidRequest):
        assert refusal.field is not None
        assert refusal.field.startswith(field)


@given(
    st.one_of(
        requests,
        st.builds(
            lambda body, field, value: body | {field: value},
            requests,
            st.sampled_from(["user_id", "unit", "candidates", "top_k", "deadline_ms", "arms", "context", "extra"]),
            anything,
        ),
        st.builds(
            lambda body, one: body | {"candidates": [*body["candidates"], one]},
            requests,
            st.one_of(
                anything, st.fixed_dictionaries({"id": anything}, optional={"features": anything, "x": anything})
            ),
        ),
    )
)
def test_both_decoders_accept_the_same_bodies(body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode()
    found = decode_rank(raw, LIMITS)
    try:
        whole = rank_body(LIMITS).model_validate_json(raw)
    except (ValidationError, InvalidRequest):
        assert found is None
        return
    assert found is not None
    ids, described, options = found
    assert ids == [one.id for one in whole.candidates]
    assert described == [one.features for one in whole.candidates]
    assert options.model_dump() == whole.model_dump(exclude={"candidates"})


@pytest.mark.parametrize(
    "given",
    [
        '{"id": "' + "x" * 256 + '"}', '{"id": "' + "x" * 257 + '"}', '{"id": "' + "é" * 128 + '"}', '{"id": ""}',
        '{"id": "' + "é" * 129 + '"}', '{"id": 1.0}', '{"id": true}', '{"id": null}', '{"id": "a", "id": "b"}',
        '{"id": 1' + "0" * 300 + "}", '{"id": 1' + "0" * 5000 + "}", '{"id": "\\ud800"}', '{"id": -0}', '{"id": 1e3}',
        '{"id": "a", "features": {"x": 1e400}}', '{"id": "a", "features": {"x": NaN}}', '{"id": "a", "features": []}',
        '{"id": "a", "features": {"": 1}}', '{"id": "a", "features": {"x": {"y": 1}}}', '{"id": "a",}', "{}", "7",
        '{"id": "a", "features": {"x": ' + "[" * 500 + "]" * 500 + "}}", '{"id": "\t"}', '{"id": "\\u0000"}',
        '{"id": "a", "features": {' + ", ".join(f'"f{at}": 1' for at in range(257)) + "}}",
    ],
)  # fmt: skip
def test_both_decoders_accept_the_same_candidates(given: str) -> None:
    raw = f'{{"candidates": [{{"id": "first"}}, {given}]}}'.encode()
    found = decode_rank(raw, LIMITS)
    try:
        whole = rank_body(LIMITS).model_validate_json(raw)
    except (ValidationError, InvalidRequest):
        assert found is None
    else:
        assert found is not None
        assert found[0] == [one.id for one in whole.candidates]
        assert found[1] == [one.features for one in whole.candidates]


@given(requests, st.sampled_from([math.nan, math.inf, -math.inf]), st.sampled_from(["context", "features"]))
def test_numbers_that_are_none_are_refused_everywhere(body: dict[str, Any], number: float, place: str) -> None:
    if place == "context":
        body = body | {"context": {"x": [number]}}
    else:
        body = body | {"candidates": [*body["candidates"], {"id": "last", "features": {"x": number}}]}
    refusal = _refusal(parse_rank, json.dumps(body).encode(), LIMITS)
    assert isinstance(refusal, InvalidRequest)
    assert refusal.field in ("context.x", f"candidates[{len(body['candidates']) - 1}].features.x")


@given(st.one_of(st.binary(max_size=200), anything.map(lambda value: json.dumps(value).encode())))
def test_arbitrary_bytes_never_break_a_parser(raw: bytes) -> None:
    for refusal in (_refusal(parse_rank, raw, LIMITS), _refusal(parse_feedback, raw, None)):
        assert refusal is None or isinstance(refusal, (MalformedRequest, InvalidRequest))
    found = request_id_in(raw)
    assert found is None or 1 <= len(found) <= 128


@given(
    st.lists(
        st.fixed_dictionaries({"user_id": ids, "item_id": ids, "value": st.floats(-1e9, 1e9)}), min_size=1, max_size=5
    )
)
def test_feedback_parses_and_packs(events: list[dict[str, Any]]) -> None:
    _, interactions = parse_feedback(json.dumps({"events": events}).encode(), None)
    assert [one.user_id for one in interactions] == [str(one["user_id"]) for one in events]
    assert all(len(one.pack()) == 24 for one in interactions)
    _, single = parse_feedback(json.dumps(events[0]).encode(), None)
    assert single[0].item_id == str(events[0]["item_id"])
