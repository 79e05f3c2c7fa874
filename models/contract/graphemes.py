"""Where a text may be cut: never inside of what people see as one character.

A letter and its accents, a family of emoji, a flag or a syllable of jamo are several code points. The rules are those
of Unicode's extended grapheme clusters (UAX 29) as far as texts of catalogues need them; where they differ, more stays
together, hardly ever less. Python's strings have no halves of surrogate pairs, and ``clean`` drops lone surrogates.
"""

from __future__ import annotations

import unicodedata

_MARKS = frozenset({"Mn", "Mc", "Me"})
_JOINER = "\u200d"
_JOINED = frozenset("\u200c\u200d\u0e33\u0eb3")
"""Joiners, and vowels of Thai and Lao that are letters to Unicode and stand behind their consonant."""
_VIRAMA = 9
"""Combining class of what joins two consonants in the scripts of India."""


def cut(text: str, length: int) -> str:
    """The beginning of ``text`` of at most ``length`` code points, without a part of a grapheme at its end.

    A first grapheme that is longer than ``length`` (a letter under a heap of accents) is cut all the same.
    """
    if len(text) <= length:
        return text
    end = length
    while end > 0 and _is_inside(text, end):
        end -= 1
    return text[: end or length]


def _is_inside(text: str, at: int) -> bool:
    """Whether position ``at`` of ``text`` stands between two code points of one grapheme."""
    before, after = text[at - 1], text[at]
    if after.isascii():
        return False
    return (
        unicodedata.category(after) in _MARKS
        or after in _JOINED
        or before == _JOINER
        or "\U0001f3fb" <= after <= "\U0001f3ff"  # colours of skin
        or "\U000e0020" <= after <= "\U000e007f"  # tags, of which regional flags are made
        or ("\u1160" <= after <= "\u11ff" or "\ud7b0" <= after <= "\ud7fb")  # vowels and ends of Korean syllables
        or (unicodedata.combining(before) == _VIRAMA and after.isalpha())
        or (_is_regional(after) and _regional_before(text, at) % 2 == 1)
    )


def _is_regional(character: str) -> bool:
    """Whether two of its kind make a flag."""
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _regional_before(text: str, at: int) -> int:
    """How many such characters stand in a row right before ``at``."""
    start = at
    while start > 0 and _is_regional(text[start - 1]):
        start -= 1
    return at - start
