"""The plain measures of an answer's wording."""

import unicodedata

import pytest

from offline.data.languages.english import ENGLISH
from offline.data.languages.german import GERMAN
from offline.llm.wording import (
    characters_per_word,
    complete_sentences,
    compressed_share,
    copied,
    distinct_trigrams,
    function_word_share,
    has_control_characters,
    kana_share,
    most_repeats,
    reasons_without_end,
    refuses,
    script_share,
    scripts,
    without_reasoning,
    words,
)


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("<think>hm</think>\n\nA film.", "A film."),
        ("A <Think>hm\nhm</THINK> film.", "A  film."),
        ("the template opened it</think> A film.", "A film."),
        ("<think>a<think>b</think>c</think>A film.", "A film."),
        ("<reasoning>x</reasoning>A film.", "A film."),
        ("<think></think>", ""),
        ("1 < 2 and think > nothing", "1 < 2 and think > nothing"),
    ],
)
def test_closed_reasoning_is_dropped(text: str, rest: str) -> None:
    assert without_reasoning(text) == rest
    assert not reasons_without_end(rest)


def test_open_reasoning_is_seen() -> None:
    assert reasons_without_end(without_reasoning("<think>I should say"))
    assert reasons_without_end(without_reasoning("<think>a</think> A film. <thinking>but"))


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("A dark film. It is set in", "A dark film."),
        ("A dark film. It stars Mr. Bean and Dr.", "A dark film."),
        ("Directed by J. R. R. Tolkien, no, P.", ""),
        ('"Oliver!" (1968) is a musical about', ""),
        ("Who Framed Roger Rabbit? is a comedy about", ""),
        ('He says "Run." Then he', 'He says "Run."'),
        ("Is it good? Yes! And", "Is it good? Yes!"),
        ("It cost 1.5 million. Half of", "It cost 1.5 million."),
        ("Themes:\n1. Love and loss in a small town\n2. Reve", "Themes:\n1. Love and loss in a small town"),
        ("1. Love\n2. Reve", ""),
        ("とても暗い映画です。舞台は", "とても暗い映画です。"),
        ("Complete already.", "Complete already."),
        ("他很喜欢。『都是好的。』然后", "他很喜欢。『都是好的。』"),
        ("暗い｡明るい", "暗い｡"),
        ("यह अच्छी है। यह", "यह अच्छी है।"),
        ("هل هو جيد؟ نعم", "هل هو جيد؟"),
        ("Sie sagt: „Lauf.“ Dann", "Sie sagt: „Lauf.“"),
        ("no end at all", ""),
        ("", ""),
    ],
)
def test_a_cut_sentence_is_dropped(text: str, whole: str) -> None:
    assert complete_sentences(text) == whole


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("Ein düsterer Film. Er spielt im 19. Jahrhundert und", "Ein düsterer Film."),
        ("Ein düsterer Film. Er zeigt Krimis, Dramen usw. Dazu", "Ein düsterer Film."),
        ("Ein Film für z. B. Kinder", ""),
        ("Er kam 1999. Dann", "Er kam 1999."),
    ],
)
def test_dots_of_german_numbers_and_abbreviations_end_nothing(text: str, whole: str) -> None:
    assert complete_sentences(text, GERMAN) == whole


def test_words_of_scripts_without_spaces_and_with_marks() -> None:
    assert words("人々ｶﾅ") == ["人", "々", "ｶ", "ﾅ"]
    assert words("សួស្តី") == list("សួស្តី")
    for text in ("यह फ़िल्म अच्छी है", "שָׁלוֹם עולם", "une œuvre très drôle"):
        assert words(text) == unicodedata.normalize("NFC", text).split()
    assert words("\uff26\uff49\uff4c\uff4d") == ["\uff46\uff49\uff4c\uff4d"]


def test_a_character_says_less_than_a_word() -> None:
    assert characters_per_word(words("a film about a heist")) == 1
    assert characters_per_word(words("映画は good")) == 2
    assert characters_per_word([]) == 1


def test_scripts_without_spaces_may_double_their_characters() -> None:
    assert most_repeats(words("哈哈哈哈，真好笑")) < 4
    assert most_repeats(words("很好看很好看很好看很好看")) == 4


def test_words_of_any_script() -> None:
    assert words("It's “Amélie”, 2001; l’amour!") == ["it's", "amélie", "2001", "l’amour"]
    assert words("映画は good") == ["映", "画", "は", "good"]


def test_loops_are_measured() -> None:
    assert most_repeats(words("a film that is good")) == 1
    assert most_repeats(words("war, war, war, war")) == 4
    assert most_repeats(words("so the film is the king of fakes, the king of fakes, the king of fakes, the")) == 3
    assert most_repeats([]) == 1
    assert distinct_trigrams(words("one two three " * 20)) < 0.1
    assert distinct_trigrams(words("too short")) == 1.0
    assert compressed_share("a" * 10) == 0.0
    assert compressed_share("-" * 30) == 1.0
    assert compressed_share("abcd" * 100) < 0.1
    assert compressed_share("") == 1.0


def test_copies_are_measured() -> None:
    source = words("one two three four five six seven eight nine ten")
    assert copied(source, source) == (10, 1.0)
    assert copied(words("a b one two three four five six c d"), source) == (6, 0.6)
    assert copied(words("one two three four five x six seven eight nine ten"), source) == (0, 0.0)
    assert copied([], source) == (0, 0.0)


@pytest.mark.parametrize(
    "text", ["a\x00b", "a\x1b[31m", "a\u202eb", "a\ufffd", "a<|im_end|>", "[INST] a", "a</s>", "\ue000"]
)
def test_control_characters_are_seen(text: str) -> None:
    assert has_control_characters(text)


@pytest.mark.parametrize("text", ["tab\tand\r\nline", "Amélie – “très” 👩‍👩‍👧 soft\u00adhyphen", "映画", "a <b> c | d"])
def test_ordinary_characters_are_left_alone(text: str) -> None:
    assert not has_control_characters(text)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m really sorry, I cannot do that.",
        "Sorry, I can't assist.",
        "As an AI language model, I have not seen films.",
        "I don't have enough information about this film.",
        "I do not have access to this film.",
        "That is a good question. Unfortunately, I am unable to answer it.",
        "I'm not familiar with a film of that name.",
        "Could you please provide more details?",
        "Please provide the title.",
    ],
)
def test_refusals_are_seen(text: str) -> None:
    assert refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "I Can't Sleep is a thriller.",
        "\"I Can't Sleep (J'ai pas sommeil)\" is a gripping thriller for those who cannot speak its language.",
        "Sorry, Wrong Number is a film noir.",
        "I'm Not Rappaport is a comedy about two old men who are sorry for nothing.",
        "The hero says that he cannot go on, and asks to please provide help.",
        "I cannot wait to see how this audience likes it.",
    ],
)
def test_films_that_sound_like_refusals_are_left_alone(text: str) -> None:
    assert not refuses(text)


FOREIGN = [
    "Der Film erzählt die Geschichte eines jungen Mannes, der in den Krieg zieht und seine große Liebe verliert.",
    "Ce film raconte l'histoire d'un jeune homme qui part à la guerre et y perd son grand amour, on le regrette.",
    "La película cuenta la historia de un joven que va a la guerra; no es una comedia y he de decir que es triste.",
    "Il film racconta la storia di un giovane che parte per la guerra e a me è piaciuto come dramma cupo.",
    "De film is een drama over een jonge man die in de oorlog was, en we bevelen hem aan voor wie in is voor drama.",
    "O filme conta a história de um jovem que vai para a guerra e perde o seu grande amor, a música é linda.",
    "Filmen handlar om en ung man som går ut i krig och förlorar sin stora kärlek, ett mörkt drama för alla.",
    "Film, savaşa giden ve büyük aşkını kaybeden genç bir adamın hikayesini anlatıyor, karanlık bir dram.",
]


def test_english_differs_from_its_neighbours() -> None:
    def share(text: str) -> float:
        return function_word_share(words(text), ENGLISH.function_words)

    assert [share(text) for text in FOREIGN] == [0.0] * len(FOREIGN)
    assert share("This viewer enjoyed a mix of action, comedy, drama, and war films.") > 0.2


def test_german_differs_from_its_neighbours() -> None:
    german, *others = FOREIGN
    assert function_word_share(words(german), GERMAN.function_words) > 0.1
    assert [function_word_share(words(text), GERMAN.function_words) for text in others] == [0.0] * len(others)
    decomposed = unicodedata.normalize("NFD", "Für dieses Stück über Väter und Söhne gibt es für uns nur Lob.")
    assert function_word_share(words(decomposed), GERMAN.function_words) > 0.3


def test_scripts_are_counted_by_letter() -> None:
    assert scripts("Fargo: Фарго 映画です 7!") == {"LATIN": 5, "CYRILLIC": 5, "CJK": 4}
    assert scripts("plain text 7") == {"LATIN": 9}
    assert scripts("\uff26\uff49\uff4c\uff4dｶﾅ人々コーヒー") == {"LATIN": 4, "CJK": 8}


def test_japanese_is_told_from_chinese_by_its_kana() -> None:
    assert kana_share("雪の中で失敗する誘拐事件を描いた、暗くてユーモラスな映画です。") > 0.4
    assert kana_share("这部电影讲述了一起在雪地里出错的绑架案，气氛阴暗而幽默。") == 0.0
    assert kana_share("plain") == 0.0
    assert script_share(words("《The Lord of the Rings》很好看，气氛温暖。"), "CJK") > 0.5
    assert script_share(words("A dark film about 雪地 and more"), "CJK") < 0.3
    assert script_share(["7"], "CJK") == 1.0


@pytest.mark.parametrize(
    "text", ["<think>" * 5000, "a. " * 10_000, '"' * 20_000, "- x\n" * 5000, "I " * 10_000, "a" * 20_000, ".\n1" * 9000]
)
def test_an_answer_that_is_all_edge_is_measured_too(text: str) -> None:
    """Texts that would take a careless pattern minutes."""
    assert len(complete_sentences(without_reasoning(text))) <= len(text)
    assert not refuses(text)
    assert not has_control_characters(text)
    spoken = words(text)
    assert most_repeats(spoken) >= 1
    assert 0.0 <= distinct_trigrams(spoken) <= 1.0
    assert 0.0 <= compressed_share(text) <= 1.0
    assert copied(spoken, spoken) in {(len(spoken), 1.0), (0, 0.0)}
