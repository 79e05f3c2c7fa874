"""Answers of a language model that may become knowledge, and the problems of the others.

Looks at one answer and its own prompt at a time, so no record can change the verdict on another one. Nothing here
understands an answer: an empty phrase in good English passes. The limits were set on the 6,268 answers of
SmolLM2-135M in configs/ml-100k.responses.jsonl.gz; beside each limit stands what those answers look like. Other
languages have the same limits, counted in characters where a script has no spaces, and have not been measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

from offline.data.languages.english import ENGLISH
from offline.data.languages.language import Language
from offline.knowledge.faithfulness import inventions_of
from offline.llm import wording
from offline.llm.choices import ChoiceAnswer
from offline.llm.protocol import Answers, Completion, Prompt

Problem = Literal[
    "think",
    "empty",
    "control",
    "repetition",
    "oversize",
    "truncated",
    "refusal",
    "language",
    "echo",
    "short",
    "refused",
    "choice",
    "unfaithful",
]
State = Literal["ok", "bad", "absent"]

SECOND_TEMPERATURE: Final = 0.7
"""On the 32 bad answers among those 6,268: the words of the second try cure 26 at temperature 0, with temperature 0.7
they cure 30, and so does the temperature alone."""

_READ: Final = 20_000  # characters that are looked at; a longer answer is bad by its length anyway
_ENOUGH_WORDS: Final = 8  # fewer say little about the language
_ENOUGH_LETTERS: Final = 8
_LEAST_MASS: Final = 0.01
"""Of all choices together: a model that would say something else 99 times of 100 was not asked in its own form."""


# where the line is drawn; real answers are those 6,268
_LEAST_WORDS: Final = 4  # the shortest real answer has 9
_CHARACTERS_PER_TOKEN: Final = 16.0  # of max_tokens; real answers have at most 6.1
_LEAST_TRIGRAMS: Final = 0.6  # share of different ones; 10 real answers fail this or the next limit, all of them loops
_REPEATS: Final = 4  # the same words so often in a row
_LEAST_COMPRESSED: Final = 0.2  # zlib's size to the text's, for loops of characters; real answers: at least 0.26
_ECHO_RUN: Final = 6  # words in a row that count as copied
_ECHO_WORDS: Final = 20  # copied in one piece; at most 16 in real answers (a list of titles)
_ECHO_SHARE: Final = 0.7  # of the words, copied in pieces of 6 or more; at most 0.67 in real answers (that list)
_FUNCTION_WORDS: Final = 0.06  # real answers have at least 0.077, sentences in 12 other languages none
_SCRIPT: Final = 0.6  # of the letters, in the prompt's writing systems; real answers: all
_OWN_SCRIPT: Final = 0.4  # of the words, in a script that is not Latin: the rest may be names in Latin letters


def cleaned(answer: Completion, prompt: Prompt, language: Language = ENGLISH) -> str:
    """The usable part of an answer: no reasoning, and no sentence that max_tokens cut off. "" if nothing is."""
    if prompt.choices:
        return answer.text
    text = wording.without_reasoning(answer.text)
    return wording.complete_sentences(text, language) if _was_cut(answer, prompt) else text


def _was_cut(answer: Completion, prompt: Prompt) -> bool:
    """Whether the answer used up its tokens. A server that reports no usage (0 tokens) never seems to cut."""
    return answer.completion_tokens >= prompt.max_tokens


def problem(
    answer: Completion, prompt: Prompt, language: Language = ENGLISH, *, faithful: bool = False
) -> Problem | None:
    """The first thing that keeps ``cleaned`` of an answer in this language from being used; None if it may be used.

    With ``faithful`` an answer that names what its prompt does not (offline/knowledge/faithfulness.py) is "unfaithful".
    "think" is reasoning that never closes, "truncated" an answer without one complete sentence, "control" a control
    character or a token of a chat template, "echo" a long copy of the prompt; of a prompt with choices, "choice" says
    that the next token is hardly any of them.
    """
    if prompt.choices:
        weighed = ChoiceAnswer.parse(answer.text, prompt.choices)
        return None if weighed is not None and weighed.mass >= _LEAST_MASS else "choice"
    whole = wording.without_reasoning(answer.text)
    if wording.reasons_without_end(whole):
        return "think"
    if not wording.words(whole[:_READ]):
        return "empty"
    text = wording.complete_sentences(whole[:_READ], language) if _was_cut(answer, prompt) else whole[:_READ]
    if wording.has_control_characters(text):
        return "control"
    looked_at = text or whole[:_READ]
    spoken = wording.words(looked_at)
    if _repeats(looked_at, spoken):
        return "repetition"
    if len(whole) > min(_READ, _CHARACTERS_PER_TOKEN * prompt.max_tokens):
        return "oversize"
    if not text:
        return "truncated"
    wrong = _unusable(text, spoken, prompt, language)
    return "unfaithful" if wrong is None and faithful and inventions_of(text, prompt, language) else wrong


def _repeats(text: str, spoken: Sequence[str]) -> bool:
    return (
        wording.distinct_trigrams(spoken) < _LEAST_TRIGRAMS
        or wording.most_repeats(spoken) >= _REPEATS
        or wording.compressed_share(text) < _LEAST_COMPRESSED
    )


def _unusable(text: str, spoken: Sequence[str], prompt: Prompt, language: Language) -> Problem | None:
    """The problem of a text of sound form."""
    if wording.refuses(text, language):
        return "refusal"
    question = " ".join(message for _, message in prompt.messages)
    asked, density = wording.words(question), wording.characters_per_word(spoken)
    if _in_another_script(text, spoken, question, language) or _left_the_language(spoken, asked, language):
        return "language"
    longest, share = wording.copied(spoken, asked, density * _ECHO_RUN)
    if longest >= density * _ECHO_WORDS or share > _ECHO_SHARE:
        return "echo"
    return "short" if len(spoken) < density * _LEAST_WORDS else None


def _left_the_language(spoken: Sequence[str], asked: Sequence[str], language: Language) -> bool:
    """Whether the function words of the language are absent. Where English is only the default, the prompt may be in
    another language by the nouns of its configuration: then they are absent there too, and nothing is said."""
    if not language.function_words or min(len(spoken), len(asked)) < _ENOUGH_WORDS:
        return False
    if language is ENGLISH and wording.function_word_share(asked, language.function_words) < _FUNCTION_WORDS:
        return False
    return wording.function_word_share(spoken, language.function_words) < _FUNCTION_WORDS


def _in_another_script(text: str, spoken: Sequence[str], question: str, language: Language) -> bool:
    """Whether an answer is written in another script than its language or, in Latin letters, its prompt."""
    answered = wording.scripts(text)
    letters = answered.total()
    if language.script is None or letters < _ENOUGH_LETTERS:
        return False
    if language.script != "LATIN":
        least, most = language.kana or (0.0, 1.0)
        is_own = wording.script_share(spoken, language.script) >= _OWN_SCRIPT
        return not (is_own and least <= wording.kana_share(text) <= most)
    asked = wording.scripts(question)
    # a foreign title in the prompt allows its script, a single borrowed letter does not
    allowed = [script for script, count in asked.items() if count >= 0.1 * asked.total()]
    return sum(answered[script] for script in allowed) < _SCRIPT * letters


class Asks(Protocol):
    """The part of an LLMSession that is used here."""

    def ask_all(self, prompts: Sequence[Prompt], progress_label: str) -> Answers: ...


@dataclass(frozen=True, slots=True)
class Usable:
    """One text and one state per prompt, in order; the text is None unless the state is "ok".

    "bad" is final: both answers are in the cache, or the server refused the prompt in two runs, and another run would
    not ask again. "absent" is what the next run asks for, a second try that is still missing included. ``problems``
    counts those of first answers, ``left`` those that the second try did not cure, and the "refused" prompts.
    """

    texts: tuple[str | None, ...]
    states: tuple[State, ...]
    problems: Mapping[Problem, int]
    left: Mapping[Problem, int]
    stopped: str | None = None

    def count(self, state: State) -> int:
        return self.states.count(state)

    def summary(self) -> str:
        """Return one readable line."""
        again = ", ".join(f"{count} {name}" for name, count in sorted(self.problems.items()))
        bad = ", ".join(f"{count} {name}" for name, count in sorted(self.left.items()))
        return (
            f"{len(self.texts)} prompts: {self.count('ok')} usable, {self.count('bad')} bad{f' ({bad})' if bad else ''}"
            f", {self.count('absent')} absent{f'; asked again: {again}' if again else ''}"
        )


def usable(
    session: Asks, prompts: Sequence[Prompt], label: str, language: Language = ENGLISH, *, faithful: bool = False
) -> Usable:
    """Ask all prompts, and those with a bad answer once more with the words of the language's second try added.

    The second prompt depends on the first alone and has a cache key of its own, so a prompt that is known to be bad
    twice costs nothing in later runs. A prompt that the server refuses has no second try, nor has one with choices:
    other words would move its numbers.
    """
    first = session.ask_all(prompts, label)
    verdicts = [
        _verdict(answer, prompt, language, faithful) for answer, prompt in zip(first.completions, prompts, strict=True)
    ]
    bad = [at for at, (_, wrong) in enumerate(verdicts) if wrong is not None and not prompts[at].choices]
    again = [asked_again(prompts[at], language) for at in bad]
    second = session.ask_all(again, f"{label}, second try") if bad else Answers(())
    problems = Counter(wrong for _, wrong in verdicts if wrong is not None)
    for at, answer, prompt in zip(bad, second.completions, again, strict=True):
        verdicts[at] = _verdict(answer, prompt, language, faithful)
    for at in (*first.refused, *(bad[again_at] for again_at in second.refused)):
        verdicts[at] = None, "refused"
    return Usable(
        texts=tuple(text for text, _ in verdicts),
        states=tuple("bad" if wrong else "absent" if text is None else "ok" for text, wrong in verdicts),
        problems=problems,
        left=Counter(wrong for _, wrong in verdicts if wrong is not None),
        stopped=first.stopped or second.stopped,
    )


def asked_again(prompt: Prompt, language: Language = ENGLISH) -> Prompt:
    """The prompt of the second try."""
    *earlier, (role, text) = prompt.messages
    longer = f"{text}\n{language.sentences.second_try}"
    return replace(prompt, messages=(*earlier, (role, longer)), temperature=SECOND_TEMPERATURE)


def _verdict(
    answer: Completion | None, prompt: Prompt, language: Language, faithful: bool
) -> tuple[str | None, Problem | None]:
    """(text, problem): a usable text without a problem, or a problem without a text; neither for an absent answer."""
    if answer is None:
        return None, None
    wrong = problem(answer, prompt, language, faithful=faithful)
    return (cleaned(answer, prompt, language), None) if wrong is None else (None, wrong)
