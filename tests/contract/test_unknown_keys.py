"""Unknown keys: which one was meant, in the same table or in another, by its full path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from models.contract.experiments import ExperimentsError, parse_experiments
from models.contract.schema import FrozenConfig
from models.contract.unknown_keys import problem_lines


class Wheel(BaseModel):
    model_config = FrozenConfig

    spokes: int = 32
    diameter: float = 28.0


class Square(BaseModel):
    model_config = FrozenConfig

    kind: Literal["square"]
    width: int = 1


class Round(BaseModel):
    model_config = FrozenConfig

    kind: Literal["round"]
    radius: int = 1


class Bicycle(BaseModel):
    model_config = FrozenConfig

    colour: str = "red"
    front: Wheel = Wheel()
    others: tuple[Wheel, ...] = ()
    named: Mapping[str, Wheel] = {}
    bell: Annotated[Square | Round, Field(discriminator="kind")] | None = None


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ({"color": "blue"}, "color: there is no such key; did you mean colour?"),
        ({"fron": {}}, "fron: there is no such key; did you mean front?"),
        ({"front": {"spoke": 3}}, "front.spoke: there is no such key; did you mean front.spokes?"),
        ({"others": [{}, {"diametre": 3}]}, "others.1.diametre: there is no such key; did you mean others.1.diameter?"),
        ({"named": {"old": {"spoks": 3}}}, "named.old.spoks: there is no such key; did you mean named.old.spokes?"),
        ({"front": {"colour": "blue"}}, "front.colour: there is no such key; did you mean colour?"),
        (
            {"spokes": 3},
            "spokes: there is no such key; did you mean front.spokes or others.spokes or named.spokes?",
        ),
        (
            {"bell": {"kind": "round", "radios": 3}},
            "bell.round.radios: there is no such key; did you mean bell.round.radius?",
        ),
        ({"front": {"qqq": 3}}, "front.qqq: there is no such key; there are spokes, diameter"),
        ({"pedals": 2}, "pedals: there is no such key; there are colour, front, others, named, bell"),
    ],
)
def test_the_key_that_was_meant_is_named(document: dict[str, object], line: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Bicycle.model_validate(document)
    assert problem_lines(Bicycle, raised.value) == [line]


def test_other_problems_are_what_they_were_and_a_key_that_moved_says_where_it_is() -> None:
    with pytest.raises(ValidationError) as raised:
        Bicycle.model_validate({"front": {"spokes": "many"}, "saddle": 1})
    lines = problem_lines(Bicycle, raised.value, {"saddle": "is bought apart now"})
    assert lines[0].startswith("front.spokes: Input should be a valid integer")
    assert lines[1] == "saddle: is bought apart now"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[layer]]\nname = "a"', "layer: there is no such key; did you mean layers?"),
        (
            '[[layers]]\nname = "a"\n[[layers.experiments]]\nname = "e"\narms = [{ name = "x", wieght = 1 }]',
            "did you mean layers.0.experiments.0.arms.0.weight?",
        ),
        (
            '[[layers]]\nname = "a"\nsticky_days = 3\nexperiments = []',
            "layers.0.sticky_days: there is no such key; did you mean layers.experiments.sticky_days?",
        ),
    ],
)
def test_experiments_too(text: str, message: str) -> None:
    with pytest.raises(ExperimentsError) as raised:
        parse_experiments(text.encode())
    assert message in str(raised.value)


def test_a_key_that_is_missing_because_of_its_spelling_is_told_once() -> None:
    class Rim(BaseModel):
        model_config = FrozenConfig
        spokes: int

    with pytest.raises(ValidationError) as raised:
        Rim.model_validate({"spoke": 36})
    (line,) = problem_lines(Rim, raised.value)
    assert line == "spoke: there is no such key; did you mean spokes?"
