"""Settings about rows of interactions: which of them count, how their times are written, in which part they are."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from models.contract.schema import FrozenConfig

Operator = Literal["<", "<=", ">", ">=", "==", "!="]

_BEGINS = re.compile(r"\s*(<=|>=|==|!=|<|>)")
_COMPARISON = re.compile(rf"{_BEGINS.pattern}\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]


class ValueCondition(BaseModel):
    """A number's relation to a bound, such as ``>= 1``."""

    model_config = FrozenConfig

    operator: Operator
    bound: float


def _condition(value: Any) -> Any:
    """A text is read as comparisons if it begins like one, and else is the one text that is admitted."""
    if not isinstance(value, str):
        return value
    if not _BEGINS.match(value):
        return (value,)
    comparisons = []
    for part in value.split(" and "):
        match = _COMPARISON.fullmatch(part)
        if match is None:
            raise ValueError(
                f'{part!r} is no comparison: one of < <= > >= == != and a number, several joined by " and "; '
                "a text that begins so goes into brackets"
            )
        comparisons.append({"operator": match[1], "bound": float(match[2])})
    return tuple(comparisons)


Admitted = Annotated[
    Annotated[tuple[str, ...], Field(min_length=1)] | Annotated[tuple[ValueCondition, ...], Field(min_length=1)],
    BeforeValidator(_condition),
]
"""``"buy"``, ``["view", "buy"]``, ``">= 1"`` or ``">= 1 and < 5"``."""


class PartsConfig(BaseModel):
    """Values of ``split_column`` that mean each part. Without any for validation, the last tenth of the training part's
    samples validates (offline/training/samples.py)."""

    model_config = FrozenConfig

    train: Names = ("train",)
    validation: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ("validation", "valid")
    test: Names = ("test",)

    @model_validator(mode="after")
    def _values_are_of_one_part(self) -> Self:
        names = [*self.train, *self.validation, *self.test]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"of two parts: {', '.join(map(repr, repeated))}")
        return self

    def numbers(self) -> dict[str, int]:
        """0 (train), 1 (validation) or 2 (test) by value."""
        parts = enumerate((self.train, self.validation, self.test))
        return {name: number for number, names in parts for name in names}


def check_format(form: str) -> None:
    """ValueError if the format cannot be read, or tells no year."""
    if not any(mark in form for mark in ("%Y", "%y", "%G", "%c", "%x")):
        raise ValueError(f"time_format {form!r} has no year")
    try:
        datetime.strptime(datetime(2001, 2, 3, tzinfo=UTC).strftime(form), form)
    except ValueError as error:
        raise ValueError(f"time_format {form!r}: {error}") from error
