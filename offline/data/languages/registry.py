"""The language of a code: one that has its own sentences, or English questions with an answer in that language.

Small models follow a question best in the language of the question: asked in English for another language, models that
were trained mostly on English fall back into it (language confusion, arXiv 2406.20052). So a language that the project
speaks is asked in; for every other one the question is English and ends with the name of the language.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType

from offline.data.languages.chinese import CHINESE
from offline.data.languages.english import ENGLISH
from offline.data.languages.function_words import FUNCTION_WORDS
from offline.data.languages.german import GERMAN
from offline.data.languages.japanese import JAPANESE
from offline.data.languages.language import Language, Sentences

LANGUAGES: Mapping[str, Language] = MappingProxyType(
    {language.code: language for language in (ENGLISH, GERMAN, CHINESE, JAPANESE)}
)
"""Languages with sentences of their own, by code."""

OTHER = "other"
"""The code of a catalogue in a language without a code, or in several."""

_NAMES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "ar": ("Arabic", "ARABIC"),
        "bg": ("Bulgarian", "CYRILLIC"),
        "ca": ("Catalan", "LATIN"),
        "cs": ("Czech", "LATIN"),
        "da": ("Danish", "LATIN"),
        "el": ("Greek", "GREEK"),
        "es": ("Spanish", "LATIN"),
        "fa": ("Persian", "ARABIC"),
        "fi": ("Finnish", "LATIN"),
        "fr": ("French", "LATIN"),
        "he": ("Hebrew", "HEBREW"),
        "hi": ("Hindi", "DEVANAGARI"),
        "hu": ("Hungarian", "LATIN"),
        "id": ("Indonesian", "LATIN"),
        "it": ("Italian", "LATIN"),
        "ko": ("Korean", "HANGUL"),
        "nb": ("Norwegian", "LATIN"),
        "nl": ("Dutch", "LATIN"),
        "no": ("Norwegian", "LATIN"),
        "pl": ("Polish", "LATIN"),
        "pt": ("Portuguese", "LATIN"),
        "ro": ("Romanian", "LATIN"),
        "ru": ("Russian", "CYRILLIC"),
        "sv": ("Swedish", "LATIN"),
        "th": ("Thai", "THAI"),
        "tr": ("Turkish", "LATIN"),
        "uk": ("Ukrainian", "CYRILLIC"),
        "vi": ("Vietnamese", "LATIN"),
    }
)
"""English names and scripts of languages without sentences of their own, for the words "Answer in"."""


@lru_cache(maxsize=64)
def language_of(tag: str) -> Language:
    """The language of a tag of BCP 47 ("de", "de-AT") or of "other"; what follows the first hyphen is not looked at."""
    code = tag.split("-")[0].lower()
    if code in LANGUAGES:
        return LANGUAGES[code]
    name, script = _NAMES.get(code, ("", None))
    if code == OTHER:
        wish = "Answer in the language of the names."
    else:
        wish = f"Answer in {name or f'the language with the code {code}'}."
    words = FUNCTION_WORDS.get(code, frozenset())
    return Language(code, _asked_in_english(wish), words={}, function_words=words, script=script)


def name_of_language(code: str) -> str:
    """The English name of a language that is asked in English, or its code."""
    return _NAMES.get(code, (code, None))[0]


def _asked_in_english(wish: str) -> Sentences:
    """English sentences, of which the questions end with the wish for a language."""
    asked = ("item_question", "summary_question", "shift_question")
    questions = {name: f"{getattr(ENGLISH.sentences, name)} {wish}" for name in asked}
    again = ENGLISH.sentences.second_try.replace(
        "Answer in the language of this question,", f"{wish.removesuffix('.')},"
    )
    return replace(ENGLISH.sentences, **questions, second_try=again)
