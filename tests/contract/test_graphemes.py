"""Texts are cut between what people see as characters, in any script."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.contract.graphemes import cut
from models.contract.prompts import clean

FAMILY = "\U0001f469\u200d\U0001f469\u200d\U0001f467"
WAVING = "\U0001f44b\U0001f3fd"
FLAGS = "\U0001f1e9\U0001f1ea\U0001f1ef\U0001f1f5"
HEART = "\u2764\ufe0f"


@pytest.mark.parametrize(
    ("text", "length", "beginning"),
    [
        ("film", 9, "film"),
        ("film", 2, "fi"),
        ("cafe\u0301s", 4, "caf"),
        ("cafe\u0301s", 5, "cafe\u0301"),
        (f"a{FAMILY}b", 3, "a"),
        (f"a{FAMILY}b", 6, f"a{FAMILY}"),
        (f"a{WAVING}", 2, "a"),
        (f"{FLAGS}!", 3, FLAGS[:2]),
        (f"x{FLAGS}", 2, "x"),
        (f"x{FLAGS}", 3, f"x{FLAGS[:2]}"),
        (f"{HEART}{HEART}", 3, HEART),
        ("\u0915\u094d\u0937\u0924", 2, "\u0915\u094d"),  # the whole syllable is longer than 2, so it is cut
        ("\u0924\u0915\u094d\u0937", 3, "\u0924"),
        ("\u1112\u1161\u11ab\u1100", 2, "\u1112\u1161"),
        ("\u0e19\u0e49\u0e33\u0e21", 3, "\u0e19\u0e49\u0e33"),
        ("\u5e83\u8fbb\u82d1", 2, "\u5e83\u8fbb"),
    ],
)
def test_nothing_that_belongs_together_is_split(text: str, length: int, beginning: str) -> None:
    assert cut(text, length) == beginning


def test_a_heap_of_accents_is_cut_all_the_same() -> None:
    assert len(cut("e" + "\u0301" * 500, 100)) == 100


@given(st.text(st.characters(codec="utf-8"), max_size=40), st.integers(min_value=1, max_value=40))
def test_a_cut_text_is_a_beginning_and_what_follows_stays_where_it_is(text: str, length: int) -> None:
    beginning = cut(text, length)
    assert text.startswith(beginning)
    assert len(beginning) <= length
    if len(beginning) < length < len(text):  # it was moved to a border, where it stays
        assert cut(text, len(beginning)) == beginning


def test_values_are_cut_between_characters() -> None:
    assert clean(f"{'x' * 18}{FAMILY}", 20) == f"{'x' * 18}…"
    assert clean(unicodedata.normalize("NFD", "é" * 30), 20) == unicodedata.normalize("NFD", "é" * 9) + "…"
    assert clean("映画" * 20, 20) == "映画" * 9 + "映…"
