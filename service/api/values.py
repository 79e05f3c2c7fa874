"""The value types of request bodies, stricter than JSON: what an id, a feature and a context value may be."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

ID_BYTES = 256
MAX_FIELDS = 256
LARGEST_INTEGER = 2**63
LARGEST_LIST = 256


def _identifier(value: Any) -> str:
    # bool is an int in Python, and 1.0 is not the item "1".
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise PydanticCustomError("identifier", "must be a string or an integer")
    text = str(value)
    if not 1 <= len(text.encode()) <= ID_BYTES:
        raise PydanticCustomError("identifier", "must have 1 to {most} bytes in UTF-8", {"most": ID_BYTES})
    return text


def _scalar(value: Any) -> Any:
    if isinstance(value, int):  # bool too
        if abs(value) >= LARGEST_INTEGER:
            raise PydanticCustomError("feature", "integers must fit 64 bits")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise PydanticCustomError("finite_number", "numbers must be finite")
        return value
    if value is None or isinstance(value, str):
        return value
    raise PydanticCustomError("feature", "must be a string, a number, a boolean, null, or a list of those")


def _feature(value: Any) -> Any:
    if not isinstance(value, list):
        return _scalar(value)
    if len(value) > LARGEST_LIST:
        raise PydanticCustomError("feature", "a list may hold at most {most} values", {"most": LARGEST_LIST})
    return [_scalar(one) for one in value]


_SCALAR_SCHEMA: list[dict[str, Any]] = [{"type": kind} for kind in ("string", "number", "boolean", "null")]

Id = Annotated[
    str,
    BeforeValidator(_identifier),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string", "minLength": 1, "maxLength": ID_BYTES}, {"type": "integer"}],
            "description": "1 to 256 bytes in UTF-8; an integer is answered as a string",
        }
    ),
]

IdOrEmpty = Annotated[
    str,
    BeforeValidator(lambda value: "" if value == "" else _identifier(value)),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string", "maxLength": ID_BYTES}, {"type": "integer"}],
            "description": "At most 256 bytes in UTF-8; empty for nobody",
        }
    ),
]

FeatureValue = Annotated[
    Any,
    BeforeValidator(_feature),
    WithJsonSchema({"anyOf": [*_SCALAR_SCHEMA, {"type": "array", "items": {"anyOf": _SCALAR_SCHEMA}}]}),
]

FeatureName = Annotated[str, Field(min_length=1, max_length=ID_BYTES)]

Features = Annotated[dict[FeatureName, FeatureValue], Field(max_length=MAX_FIELDS)]

Where = Annotated[dict[FeatureName, FeatureValue], Field(max_length=MAX_FIELDS)]
"""A value of a field, or several of which an item must have one."""

RequestId = Annotated[
    str,
    Field(
        pattern=r"^[!-~]{1,128}$",
        description="1 to 128 visible ASCII characters, because it is answered in a header",
    ),
]
