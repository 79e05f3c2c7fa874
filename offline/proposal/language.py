"""The language of a catalogue, by its scripts and function words, and words for its items that no branch owns.

The defaults of ``[data.texts]`` speak of films, in every language; what is sold is known here by a file's name at most,
and that is English as a rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from types import MappingProxyType

import polars as pl

from offline.data.languages.chinese import CHINESE
from offline.data.languages.english import ENGLISH
from offline.data.languages.german import GERMAN
from offline.data.languages.japanese import JAPANESE
from offline.data.languages.registry import OTHER
from offline.llm.wording import kana_share, scripts
from offline.proposal.features import Column

_TEXTS = 2000
"""Texts that are looked at, of each column."""
_LEAST_SHARE = 0.3
"""Share of letters of one script, or of two, from which it is the catalogue's own: names may stay Latin."""
_LEAST_WORDS = 3
_UMLAUTS, _GERMAN_ALONE = frozenset("äö"), frozenset("üß")
_LETTERS = _UMLAUTS | _GERMAN_ALONE

WORDS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "de": {
            "noun": "Artikel",
            "plural": "Artikel",
            "user": "Person",
            "topics": "Merkmale",
            "aspects": "Art und Zweck, Eigenschaften und die Menschen, denen es gefällt",
            "tastes": "welche Arten und Eigenschaften ihr gefallen",
            "unnamed": "ein Artikel ohne Namen",
        },
        "zh": {
            "noun": "商品",
            "plural": "商品",
            "user": "用户",
            "topics": "类型",
            "aspects": "种类与用途、特点，以及喜欢它的人群",
            "tastes": "喜欢什么样的种类和特点",
            "unnamed": "一件无名商品",
        },
        "ja": {
            "noun": "商品",
            "plural": "商品",
            "user": "利用者",
            "topics": "種類",
            "aspects": "種類と用途、特徴、どのような人に好まれるか",
            "tastes": "どのような種類や特徴を好むか",
            "unnamed": "無名の商品",
        },
    }
)
"""Words of [data.texts] for any goods, by language, and what stands for an item without a title (``unnamed``)."""


def language_of_items(table: pl.DataFrame, columns: Sequence[Column]) -> str:
    """The code of the language that a table's texts are in: "en" also where nothing speaks against it."""
    return language_of_texts(text for column in columns if column.type == "text" for text in _texts(table, column))


def language_of_texts(texts: Iterable[str]) -> str:
    """ "de", "zh" or "ja", "other" for another script than the Latin, else "en"."""
    text = "\n".join(texts)
    letters = scripts(text)
    if letters["CJK"] > _LEAST_SHARE * letters.total():
        assert JAPANESE.kana is not None
        return JAPANESE.code if kana_share(text) >= JAPANESE.kana[0] else CHINESE.code
    if letters["LATIN"] < (1 - _LEAST_SHARE) * letters.total():
        return OTHER
    words = [word.strip('.,;:!?()"') for word in text.lower().split()]
    english = sum(word in ENGLISH.function_words for word in words)
    is_german = max(_LEAST_WORDS, 0.03 * len(words), english + 1) <= _german(words)
    return GERMAN.code if is_german else ENGLISH.code


def _german(words: Sequence[str]) -> int:
    """Words that are German by their function or letters, less those with letters that German lacks. Swedish and
    Finnish have ä and ö, but neither ü nor ß."""
    certain = sum(word in GERMAN.function_words or not _GERMAN_ALONE.isdisjoint(word) for word in words)
    likely = sum(not _UMLAUTS.isdisjoint(word) and _GERMAN_ALONE.isdisjoint(word) for word in words)
    foreign = sum(
        any(sign.isalpha() and not sign.isascii() and sign not in _LETTERS for sign in word) for word in words
    )
    return certain + (likely if certain else 0) - foreign


def _texts(table: pl.DataFrame, column: Column) -> Iterable[str]:
    return islice((text for text in table[column.column].cast(pl.String).to_list() if text), _TEXTS)
