"""Bodies of requests and answers, each defined once: msgspec reads and writes them, the OpenAPI page is made of them.

Requests are strict: nothing is coerced, nothing is ignored, and a body is refused at its first fault. Two things are
left to ``service.api.parsing``: the bytes of an id (a type can count only characters) and the operator's limits.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.json import schema_components

from models.contract.ids import ID_BYTES, NOBODY

MAX_FIELDS = 256
"""Entries of a mapping, and values of a list among them."""

MAX_EVENTS = 1000
DEFAULT_COUNT, DEFAULT_TOP_K = 200, 20
"""Candidates that a recommend request retrieves, and items that it answers, if it says nothing else."""

LARGEST_INTEGER = 2**63 - 1
LARGEST_FLOAT = sys.float_info.max
LARGEST_VALUE = 1e9
"""An interaction's value is kept as a 32-bit float, and its square must be one too."""

REFERENCE = "#/components/schemas/{name}"

_ID_TEXT: dict[str, Any] = {"pattern": r"^[^\u0000-\u001F\u007F]*$"}
"""Checked by ``service.api.parsing``, which is faster; said in the OpenAPI document. Bytes cannot be said there."""

Id = Annotated[
    Annotated[str, Meta(min_length=1, max_length=ID_BYTES, extra_json_schema=_ID_TEXT)] | int,
    Meta(description="1 to 256 bytes in UTF-8 without control characters; an integer is answered as a string"),
]

IdOrEmpty = Annotated[str, Meta(max_length=ID_BYTES, extra_json_schema=_ID_TEXT)] | int
"""Empty for nobody. Ids that the release lists as those of nobody count as empty."""

RequestId = Annotated[
    str,
    Meta(
        pattern=r"^[!-~]{1,128}(?!\n)$",  # Python's $ alone would let a last line feed through, into a header
        description="1 to 128 visible ASCII characters, because it is answered in a header",
    ),
]

Positive = Annotated[int, Meta(ge=1)]

Name = Annotated[str, Meta(min_length=1, max_length=ID_BYTES)]

Scalar = (
    str
    | Annotated[int, Meta(ge=-LARGEST_INTEGER, le=LARGEST_INTEGER)]
    | Annotated[float, Meta(ge=-LARGEST_FLOAT, le=LARGEST_FLOAT)]  # what is no number is not between them
    | bool
    | None
)

Features = Annotated[
    dict[Name, Scalar | Annotated[list[Scalar], Meta(max_length=MAX_FIELDS)]], Meta(max_length=MAX_FIELDS)
]

Arms = Annotated[dict[Annotated[str, Meta(min_length=1)], str], Meta(max_length=MAX_FIELDS)]


def _about(text: str) -> Meta:
    return Meta(description=text)


class _Body(Struct, forbid_unknown_fields=True):
    """The body of a request."""


class CandidateBody(_Body, gc=False):
    id: Id
    features: Annotated[Features | None, _about("Describe the item only if the catalogue does not hold it")] = None


class RankOptions(_Body):
    """Fields that the two kinds of rank requests have in common."""

    request_id: Annotated[RequestId | None, _about("Joins feedback to this request; generated if absent")] = None
    user_id: Annotated[
        IdOrEmpty | None,
        _about(
            "At most 256 bytes in UTF-8; if absent, empty or one of nobody (null, undefined, ...), the answer is "
            "that of a user of whom nothing is known, in no arm"
        ),
    ] = None
    unit: Annotated[
        IdOrEmpty | None,
        _about("Who is split into arms, if not the user: a session, a device; at most 256 bytes in UTF-8"),
    ] = None
    context: Annotated[Features | None, _about("Checked and otherwise not used by current models")] = None
    top_k: Annotated[Positive | None, _about("Answer only the best ones")] = None
    deadline_ms: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        _about("Milliseconds since the headers of the request arrived; a default of the operator's if absent"),
    ] = None
    explain: Annotated[bool | None, _about("Answer each item's score without knowledge too")] = None
    rerank: Annotated[Literal["auto", "off", "force"] | None, _about("auto if absent")] = None
    arms: Annotated[Arms | None, _about("Arms forced by layer")] = None


class RankBody(RankOptions, kw_only=True):
    candidates: Annotated[list[CandidateBody], Meta(min_length=1)]


class RecommendBody(RankOptions):
    top_k: Annotated[Positive | None, _about(f"Items to answer; {DEFAULT_TOP_K} if absent")] = None
    count: Annotated[Positive | None, _about(f"Candidates to find; {DEFAULT_COUNT} if absent")] = None
    exclude_seen: Annotated[bool | None, _about("Leave out what the user's history holds; true if absent")] = None
    allow: Annotated[list[Id] | None, _about("Only these items")] = None
    deny: Annotated[list[Id] | None, _about("None of these items")] = None
    where: Annotated[Features | None, _about("Items with one of the values of each field that is named")] = None


class ArmsBody(_Body):
    request_id: Annotated[RequestId | None, _about("Generated if absent")] = None
    user_id: Annotated[IdOrEmpty | None, _about("Who is split into arms; at most 256 bytes in UTF-8")] = None
    unit: Annotated[
        IdOrEmpty | None,
        _about("Who is split into arms, if not the user: a session, a device; at most 256 bytes in UTF-8"),
    ] = None


class EventBody(_Body, gc=False):
    user_id: Id
    item_id: Id
    value: Annotated[
        Annotated[float, Meta(ge=-LARGEST_VALUE, le=LARGEST_VALUE)] | None,
        _about(
            "For types that enter the history, within the range of the loaded release: 1 to 5 for stars. May be "
            "absent where it says nothing: of purchases and other likes (values from 0 to 1), and of other types"
        ),
    ] = None
    type: Annotated[
        Annotated[str, Meta(min_length=1, max_length=64)] | None,
        _about("If absent, the first type that the loaded release reads; rating while there is no release"),
    ] = None
    timestamp_ms: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        _about("Unix milliseconds; now if absent. A retry is recognised only if it repeats the timestamp"),
    ] = None
    request_id: Annotated[RequestId | None, _about("The ranked request that this interaction answers")] = None


class FeedbackBody(_Body):
    events: Annotated[list[EventBody], Meta(min_length=1, max_length=MAX_EVENTS)]
    request_id: Annotated[RequestId | None, _about("The ranked request of events that name none themselves")] = None


class ExplainReply(Struct, gc=False):
    score_without_knowledge: float


class ItemReply(Struct, gc=False):
    id: str
    score: float
    rank: int
    explain: ExplainReply | UnsetType = UNSET


class ModelReply(Struct):
    name: str
    version: str


class ExperimentReply(Struct):
    layer: str
    experiment: str
    arm: str


class KnowledgeReply(Struct):
    fresh: int
    stale: int
    missing: int


class TimingReply(Struct):
    queue: float
    features: float
    score: float
    rerank: float
    total: float


class RecommendTimingReply(Struct):
    queue: float
    features: float
    retrieve: float
    score: float
    rerank: float
    total: float


class _RankedItems(Struct):
    """Fields with which the two kinds of answers begin."""

    request_id: str
    items: list[ItemReply]
    release: str
    model: ModelReply
    experiments: list[ExperimentReply]
    knowledge: KnowledgeReply


class ArmsReply(Struct):
    request_id: str
    experiments: Annotated[list[ExperimentReply], _about("As a ranking of this unit would name them")]


class RankReply(_RankedItems):
    degraded: list[str]
    timing_ms: TimingReply


class RecommendReply(_RankedItems):
    retrieved: Annotated[dict[str, int], _about("Candidates by their source: matching, neighbours, popular")]
    degraded: list[str]
    timing_ms: RecommendTimingReply


class IgnoredReply(Struct, gc=False):
    reason: Annotated[
        Literal["type", "nobody", "forgotten"],
        _about("type: stored, but no ranking and no training reads its type; nobody: not stored, an id names nobody"),
    ]
    count: int
    message: str


class FeedbackReply(Struct):
    accepted: Annotated[int, _about("Events that were stored")]
    request_id: str
    ignored: Annotated[
        list[IgnoredReply] | UnsetType, _about("Events that have no effect on rankings, by reason; absent if all have")
    ] = UNSET


class ErrorDetail(Struct):
    code: str
    message: str
    request_id: str
    field: str | UnsetType = UNSET
    retry_after_ms: int | UnsetType = UNSET


class ErrorReply(Struct):
    error: ErrorDetail


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits that the operator sets, and the ids that stand for nobody, which the release lists."""

    max_candidates: int
    default_deadline_ms: float
    max_deadline_ms: float
    nobody: frozenset[str] = frozenset(NOBODY)


def openapi_schemas(limits: Limits, others: Sequence[type[Struct]] = ()) -> Mapping[str, Any]:
    """JSON schemas of all bodies by name, and of ``others``, with the operator's limits, which are no part of the
    types."""
    requests = (RankBody, RecommendBody, FeedbackBody, ArmsBody)
    bodies = (*requests, RankReply, RecommendReply, FeedbackReply, ArmsReply, ErrorReply, *others)
    _, schemas = schema_components(bodies, ref_template=REFERENCE)
    rank, recommend = schemas["RankBody"]["properties"], schemas["RecommendBody"]["properties"]
    rank["candidates"]["maxItems"] = recommend["count"]["anyOf"][0]["maximum"] = limits.max_candidates
    for body, name, limit, most in (
        (rank, "deadline_ms", "maximum", limits.max_deadline_ms),
        (recommend, "deadline_ms", "maximum", limits.max_deadline_ms),
        (recommend, "allow", "maxItems", limits.max_candidates),
        (recommend, "deny", "maxItems", limits.max_candidates),
    ):
        body[name]["anyOf"][0][limit] = most
    return schemas
