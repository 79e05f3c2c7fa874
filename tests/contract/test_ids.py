"""Ids: what one may be, and which stand for nobody."""

from __future__ import annotations

import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.contract.ids import CONTROL_CHARACTERS, NOBODY, IdFault, has_control_characters, id_fault, is_nobody
from offline.data.rules import RULES


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a", None), ("12", None), (" ", None), ("a b", None), ("é" * 128, None), ("a" * 256, None), ("\x80", None),
        ("🦜", None), ("", IdFault.EMPTY), ("a" * 257, IdFault.LONG), ("é" * 129, IdFault.LONG),
        ("🦜" * 65, IdFault.LONG),
        ("a\0", IdFault.CONTROL), ("\t", IdFault.CONTROL), ("a\x1f", IdFault.CONTROL), ("\x7fa", IdFault.CONTROL),
        ("a\n", IdFault.CONTROL), ("\ud800", IdFault.CONTROL), ("é\0", IdFault.CONTROL),
    ],
)  # fmt: skip
def test_the_first_fault_is_named(text: str, fault: IdFault | None) -> None:
    assert id_fault(text) == fault


def test_every_fault_is_a_rule_of_data() -> None:
    assert {RULES[fault].severity for fault in IdFault} == {"error"}


@given(st.text(max_size=30))
def test_control_characters_are_the_same_to_every_door(text: str) -> None:
    """To Python's regular expressions, to polars', and to the API, which asks ASCII whether it is printable."""
    control = has_control_characters(text)
    assert control == any(ord(character) < 32 or ord(character) == 127 for character in text)
    assert control == bool(re.search(CONTROL_CHARACTERS, text))
    if text.isascii():
        assert control != text.isprintable()
    if not any(0xD800 <= ord(character) < 0xE000 for character in text):
        assert control == pl.Series([text]).str.contains(CONTROL_CHARACTERS).item()


@pytest.mark.parametrize("text", [*NOBODY, "", " ", "\t\n", "\u00a0"])
def test_what_broken_callers_send_is_nobody(text: str) -> None:
    assert is_nobody(text, NOBODY)


@pytest.mark.parametrize("text", ["0", "-1", "nobody", "NONE OF YOUR BUSINESS", "nul", "u null"])
def test_ids_of_somebody(text: str) -> None:
    assert not is_nobody(text, NOBODY)
    assert is_nobody(text, {text})


def test_ids_that_stand_for_nobody_are_ids() -> None:
    """A list of texts that no door lets through would have no effect."""
    assert [text for text in NOBODY if id_fault(text)] == []
