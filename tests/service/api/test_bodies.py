"""Body parsing as properties: whatever arrives is parsed, or refused with a named field; never anything else."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.contract.ids import NOBODY, id_fault, is_nobody
from service.api.feedback import parse_feedback
from service.api.parsing import parse_rank, parse_recommend, request_id_in
from service.api.schemas import Limits
from service.errors import InvalidRequest, MalformedRequest, ServiceError
from tests.damage import FEW

LIMITS = Limits(max_candidates=50, default_deadline_ms=100.0, max_deadline_ms=1000.0)

ids = st.one_of(
    st.text(min_size=1, max_size=80).filter(lambda text: not id_fault(text)), st.integers(-(10**30), 10**30)
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
    user = str(body["user_id"])
    assert request.user_id == ("" if is_nobody(user, NOBODY) else user)
    first: dict[str, Any] = {}
    for candidate in body["candidates"]:
        first.setdefault(str(candidate["id"]), candidate.get("features"))
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


@FEW
@given(st.sampled_from(["user_id", "count", "allow", "deny", "where", "exclude_seen", "extra"]), anything)
def test_a_field_of_a_retrieval_is_parsed_or_refused_by_name(field: str, value: Any) -> None:
    refusal = _refusal(parse_recommend, json.dumps({"user_id": "u", field: value}).encode(), LIMITS)
    if isinstance(refusal, InvalidRequest):
        assert refusal.field is not None
        assert refusal.field.startswith(field)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ('{"id": "' + "x" * 256 + '"}', None), ('{"id": "' + "x" * 257 + '"}', "id"), ('{"id": ""}', "id"),
        ('{"id": "' + "é" * 128 + '"}', None), ('{"id": "' + "é" * 129 + '"}', "id"), ('{"id": null}', "id"),
        ('{"id": 1' + "0" * 255 + "}", None), ('{"id": 1' + "0" * 256 + "}", "id"),
        ('{"id": "\\u0000"}', "id"), ('{"id": "a\\t"}', "id"), ('{"id": "é\\u007f"}', "id"),
        ('{"id": " "}', None), ('{"id": "null"}', None), ('{"id": "\\u0080"}', None),
        ('{"id": 1.0}', "id"), ('{"id": 1e3}', "id"), ('{"id": true}', "id"), ('{"id": -0}', None),
        ("{}", "id"), ("7", ""),
        ('{"id": "b", "id": "a"}', None), ('{"id": "a", "x": 1}', "x"), ('{"id": "a", "": 1}', '[""]'),
        ('{"id": "a", "features": {"x": 1e400}}', "features.x"), ('{"id": "a", "features": {"x": NaN}}', "features.x"),
        ('{"id": "a", "features": {"y": 1, "x": [1, {}]}}', "features.x"), ('{"id": "a", "features": []}', "features"),
        ('{"id": "a", "features": {"": 1}}', 'features[""]'),
        ('{"id": "a", "features": {"x": [' + "1," * 256 + "1]}}", "features.x"),
        ('{"id": "a", "features": {' + ", ".join(f'"f{at}": 1' for at in range(257)) + "}}", "features"),
        ('{"id": "a", "features": {' + ", ".join(f'"f{at}": 1' for at in range(256)) + "}}", None),
        ('{"id": "a", "features": {"' + "k" * 257 + '": 1}}', "features." + "k" * 257),
    ],
)  # fmt: skip
def test_a_candidate_is_parsed_or_refused_at_its_fault(given: str, field: str | None) -> None:
    refusal = _refusal(parse_rank, f'{{"candidates": [{{"id": "first"}}, {given}]}}'.encode(), LIMITS)
    if field is None:
        assert refusal is None
    else:
        assert isinstance(refusal, InvalidRequest)
        assert refusal.field == f"candidates[1].{field}".rstrip(".").replace(".[", "[")


@pytest.mark.parametrize(
    "given", ['{"id": "a",}', '{"id": 1' + "0" * 5000 + "}", '{"id": "\\ud800"}', '{"id": "\t"}', "[" * 100_000]
)
def test_what_is_not_json_is_malformed(given: str) -> None:
    refusal = _refusal(parse_rank, f'{{"candidates": [{{"id": "first"}}, {given}]}}'.encode(), LIMITS)
    assert isinstance(refusal, MalformedRequest)


@pytest.mark.parametrize(
    "key", ["a` - at `$.context[...]", "` - at `$.candidates[9]", "x - at `key` in `$.arms`", "\n`", "$"]
)
def test_a_key_that_looks_like_a_path_is_refused_as_any_other(key: str) -> None:
    """Places are read from msgspec's messages, which repeat the keys of a body."""
    bodies: list[Any] = [{key: 1}, {"candidates": [{"id": "a", key: 1}]}, {"context": {key: {}}}, {"rerank": key}]
    for body in bodies:
        assert isinstance(_refusal(parse_rank, json.dumps(body).encode(), LIMITS), InvalidRequest)


@pytest.mark.parametrize(
    "raw",
    [
        '{"context": {"x": {}}, "context": 5}', '{"context": {"x": {}}, "context": {"x": 1}}',
        '{"candidates": [{"id": "a", "features": {"x": {}}}], "candidates": []}', '{"arms": {"": "x"}, "arms": [1]}',
    ],
)  # fmt: skip
def test_a_field_that_comes_twice_is_refused_for_the_wrong_one(raw: str) -> None:
    refusal = _refusal(parse_rank, raw.encode(), LIMITS)
    assert isinstance(refusal, InvalidRequest)
    assert refusal.field in ("context", "candidates[0].features", "arms")


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
    ranked, retrieved = _refusal(parse_rank, raw, LIMITS), _refusal(parse_recommend, raw, LIMITS)
    for refusal in (ranked, retrieved, _refusal(parse_feedback, raw, None, NOBODY)):
        assert refusal is None or isinstance(refusal, (MalformedRequest, InvalidRequest))
    request_id = request_id_in(raw)
    assert request_id is None or 1 <= len(request_id) <= 128


@given(
    st.lists(
        st.fixed_dictionaries({"user_id": ids, "item_id": ids, "value": st.floats(-1e9, 1e9)}), min_size=1, max_size=5
    )
)
def test_feedback_parses_and_packs(events: list[dict[str, Any]]) -> None:
    parsed = parse_feedback(json.dumps({"events": events}).encode(), None, NOBODY)
    given = [(str(event["user_id"]), str(event["item_id"])) for event in events]
    stored = [pair for pair in given if not any(is_nobody(owner, NOBODY) for owner in pair)]
    assert [(interaction.user_id, interaction.item_id) for interaction in parsed.interactions] == stored
    assert parsed.ignored["nobody"] == len(given) - len(stored)
    assert all(len(interaction.pack()) == 24 for interaction in parsed.interactions)
    single = parse_feedback(json.dumps(events[0]).encode(), None, NOBODY)
    assert len(single.interactions) == (given[0] in stored)
