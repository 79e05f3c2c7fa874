"""Catalogues in German and Chinese, from their files to the answers that may become knowledge; Japanese, other
languages, and English as it was."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from string import Formatter

import pytest

from models.contract.schema import fingerprint
from offline.data.dataset import open_dataset
from offline.data.languages.english import ENGLISH
from offline.data.languages.language import Sentences
from offline.data.languages.registry import LANGUAGES, language_of
from offline.data.texts import TextsConfig
from offline.knowledge.inputs import text_form
from offline.knowledge.liber import produce as liber
from offline.knowledge.prompts import (
    PartitionFacts,
    item_prompt,
    item_text,
    plain_text,
    shift_prompt,
    shift_text,
    summary_prompt,
    summary_text,
)
from offline.knowledge.quality import asked_again, problem, usable
from offline.llm import wording
from offline.llm.cache import ResponseCache
from offline.llm.client import LLMClient
from offline.llm.protocol import Completion, Prompt
from offline.llm.session import LLMSession
from tests.offline.knowledge.catalogues import CHINESE, GERMAN, OwnLanguage
from tests.offline.knowledge.fakes import inputs
from tests.offline.llm.fakes import FakeBackend, new_account
from tests.synthetic import synthetic

OWN = pytest.mark.parametrize("own", [GERMAN, CHINESE], ids=["de", "zh"])


def questions(own: OwnLanguage) -> list[Prompt]:
    """The questions about the items of a catalogue, in its order."""
    vocabulary = TextsConfig.model_validate(dict(own.texts))
    return [item_prompt(vocabulary, features, 64) for features in own.catalogue.items.values()]


@OWN
def test_the_files_of_a_catalogue_are_understood_without_a_warning(own: OwnLanguage, tmp_path: Path) -> None:
    config, schema = own.write(tmp_path)
    findings = open_dataset(config, tmp_path / "raw").check(schema)
    assert (findings.errors, findings.warnings) == ([], [])
    assert findings.facts[0].startswith("20 items are described, and no users")
    assert open_dataset(config, tmp_path / "raw").catalogue().items == own.catalogue.items


def test_a_german_book_and_taste_in_the_words_of_the_model() -> None:
    vocabulary = TextsConfig.model_validate(dict(GERMAN.texts))
    book = GERMAN.catalogue.items["werk-2"]
    assert questions(GERMAN)[2].messages[-1][1] == (
        'Beschreibe "Das Haus am Übergang" (1975; Krimi) (Buch) in zwei Sätzen: '
        "Themen und Handlung, Stil und das Publikum, dem es gefällt."
    )
    assert item_text(vocabulary, book, "Es ist gut.") == '"Das Haus am Übergang" (1975; Krimi). Es ist gut.'
    facts = PartitionFacts(["A", "B", "C"], [True, True, False], [("Krimi", "Drama"), ("Krimi",), ()])
    assert summary_prompt(vocabulary, facts, 32, 20).messages[-1][1] == (
        "Eine Person (Leserin oder Leser) hat diese Bücher gut bewertet: A; B.\n"
        "Dieselbe Person hat diese Bücher nicht gut bewertet: C.\n"
        "Am häufigsten unter dem, was gut bewertet wurde (Genres): Krimi, Drama.\n"
        "Beschreibe in zwei Sätzen den Geschmack dieser Person: "
        "welche Geschichten, Stimmungen und Figuren ihr gefallen."
    )
    assert summary_text(vocabulary, facts, "Gern düster. ") == (
        "Mag Krimi, Drama. Gern düster. Gefallen haben: A; B. Nicht gefallen haben: C."
    )
    assert shift_text(vocabulary, facts, facts, "Nichts.") == "Mehr vom Gleichen; weniger von nichts. Nichts."


def test_a_chinese_film_and_taste_in_the_words_of_the_model() -> None:
    vocabulary = TextsConfig(language="zh")
    film = CHINESE.catalogue.items["werk-1"]
    assert questions(CHINESE)[1].messages[-1][1] == (
        "请用两句话介绍电影《雨夜追踪》（2008；犯罪、悬疑）：主题与情节、氛围，以及喜欢它的人群。"
    )
    assert plain_text(vocabulary, film) == "《雨夜追踪》（2008；犯罪、悬疑）。"
    facts = PartitionFacts(["《甲》", "《乙》", "《丙》"], [True, True, False], [("犯罪", "悬疑"), ("犯罪",), ()])
    assert summary_prompt(vocabulary, facts, 32, 20).messages[-1][1] == (
        "一位观众喜欢以下电影：《甲》；《乙》。\n"
        "这位观众不喜欢：《丙》。\n"
        "这位观众喜欢的电影中最常见的类型：犯罪、悬疑。\n"
        "请用两句话描述这位观众的品味：喜欢什么样的故事、氛围和人物。"
    )
    assert summary_text(vocabulary, facts, "偏爱阴暗的故事。") == (
        "喜欢犯罪、悬疑。偏爱阴暗的故事。喜欢：《甲》；《乙》。不喜欢：《丙》。"
    )


@pytest.mark.parametrize("code", sorted(LANGUAGES.keys() - {"en"}))
def test_nothing_that_the_code_adds_is_english(code: str) -> None:
    """A language says everything itself, with the same places, and no word of English stands in any text."""
    language, facts = LANGUAGES[code], PartitionFacts([], [], [])
    vocabulary = TextsConfig(language=code)
    for field in fields(Sentences):
        here, there = (getattr(each.sentences, field.name) for each in (language, ENGLISH))
        places = {place for _, place, *_ in Formatter().parse(here) if place}
        allowed = {place for _, place, *_ in Formatter().parse(there) if place}
        words = {"noun", "plural", "user", "liked", "disliked", "topics", "aspects", "tastes"}
        assert places - words == allowed - words, field.name
        assert field.name in ("gap", "names", "item_text", "plain_text") or here != there, field.name
    texts = [
        item_prompt(vocabulary, {}, 8).messages[-1][1],
        summary_prompt(vocabulary, facts, 8, 20).messages[-1][1],
        shift_prompt(vocabulary, summary_text(vocabulary, facts, ""), "", 8).messages[-1][1],
        shift_text(vocabulary, facts, facts, ""),
        language.sentences.second_try,
        language.notation.unknown,
    ]
    english = ENGLISH.function_words | {"a", "an", "film", "films", "viewer", "liked", "likes", "none", "nothing", "in"}
    assert not (set(wording.words(" ".join(texts))) & english) - {"film", "in", "an"}
    assert {"noun", "plural", "user", "liked", "disliked", "topics", "aspects", "tastes", "item"} <= set(language.words)


class Model:
    """A language model that says ``first`` of each title, and ``second`` when it is asked again; remembers what it was
    asked again."""

    def __init__(self, own: OwnLanguage, first: Callable[[str], str], second: Callable[[str], str]) -> None:
        self.again: list[str] = []
        self._own, self._first, self._second = own, first, second

    def __call__(self, prompt: Prompt) -> str:
        text = prompt.messages[-1][1]
        title = next(title for title, *_ in self._own.rows if title in text)
        if language_of(str(self._own.texts["language"])).sentences.second_try not in text:
            return self._first(title)
        self.again.append(title)
        return self._second(title)


@pytest.fixture
def open_model(tmp_path: Path) -> Iterator[Callable[[Model], LLMSession]]:
    with asyncio.Runner() as runner, ResponseCache(tmp_path / "answers.sqlite3") as cache:

        def opened(model: Model) -> LLMSession:
            backend, account = FakeBackend(batch_size=4, reply=model), new_account()
            return LLMSession(LLMClient(backend, cache, account, 2, 2), cache, account, runner)

        yield opened


@OWN
def test_good_answers_pass(own: OwnLanguage, open_model: Callable[[Model], LLMSession]) -> None:
    model = Model(own, own.answer, own.answer)
    answers = usable(open_model(model), questions(own), "items", language_of(str(own.texts["language"])))
    assert answers.problems == {}
    assert answers.texts == tuple(own.answer(title) for title, *_ in own.rows)


@OWN
def test_each_bad_answer_is_named_asked_again_in_the_language_and_cured(
    own: OwnLanguage, open_model: Callable[[Model], LLMSession]
) -> None:
    wrong = [(name, text) for name, texts in own.bad.items() for text in texts]
    of_title = {row[0]: text for row, (_, text) in zip(own.rows, wrong, strict=False)}
    assert len(wrong) <= len(own.rows)
    model = Model(own, lambda title: of_title[title] if title in of_title else own.answer(title), own.answer)
    prompts, language = questions(own), language_of(str(own.texts["language"]))
    for (name, text), prompt in zip(wrong, prompts, strict=False):
        assert problem(Completion(text, 50, 30), prompt, language) == name, text
    answers = usable(open_model(model), prompts, "items", language)
    assert answers.texts == tuple(own.answer(title) for title, *_ in own.rows)
    assert sorted(model.again) == sorted(of_title)


@OWN
def test_a_copy_of_the_question_is_an_echo(own: OwnLanguage) -> None:
    language = language_of(str(own.texts["language"]))
    for prompt in questions(own):
        assert problem(Completion(prompt.messages[-1][1], 50, 30), prompt, language) == "echo"


def test_quoting_titles_is_no_echo_where_a_title_is_few_characters() -> None:
    vocabulary, language = TextsConfig(language="zh"), LANGUAGES["zh"]
    names = [vocabulary.item_name(features) for features in CHINESE.catalogue.items.values()]
    facts = PartitionFacts(names[:12], [True] * 12, [()] * 12)
    prompt = summary_prompt(vocabulary, facts, 128, 20)
    some = "这位观众喜欢" + "；".join(names[:4]) + "等作品，偏爱贴近生活又有人情味的题材，也欣赏略带悬念的叙事。"
    assert problem(Completion(some, 50, 60), prompt, language) is None
    everything = "这位观众喜欢" + "；".join(names[:12]) + "。"
    assert problem(Completion(everything, 50, 60), prompt, language) == "echo"


def test_a_short_sentence_in_german_may_have_articles_alone() -> None:
    text = "Die Leserin bewertet das Buch „Kaltes Gleis“ höher als alle anderen."
    assert problem(Completion(text, 50, 60), questions(GERMAN)[0], LANGUAGES["de"]) is None


def test_names_in_latin_letters_do_not_make_an_answer_english() -> None:
    text = "喜欢 The Lord of the Rings、Pride and Prejudice 与 Little Women 的观众偏爱情感细腻的改编作品。"
    assert problem(Completion(text, 50, 60), questions(CHINESE)[0], LANGUAGES["zh"]) is None
    german = "„The Lord of the Rings“ und „The Old Man and the Sea“ zeigen, dass hier große Stoffe mit Ruhe gefallen."
    assert problem(Completion(german, 50, 60), questions(GERMAN)[0], LANGUAGES["de"]) is None


JAPANESE = TextsConfig(language="ja")
JAPANESE_QUESTION = item_prompt(JAPANESE, {"title": "雪国の灯台", "year": 1998, "genres": ["ドラマ", "恋愛"]}, 64)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("雪に閉ざされた港町で灯台を守る老人の物語です。静かで温かく、家族を描いた作品が好きな人に向きます。", None),
        ("コーヒーとミステリーをこよなく愛する視聴者に喜ばれる、ユーモアのある作品です。", None),
        ("这部电影讲述了一位老人守护灯塔的故事，适合喜欢家庭题材的观众。", "language"),
        ("The film is about an old man who keeps a lighthouse, and it is for all who like families.", "language"),
        ("申し訳ありませんが、この映画についての情報がありません。", "refusal"),
        ("私はAIなので、映画を見たことがありません。", "refusal"),
        ("この映画の詳しい情報を教えていただけますか。もっと詳細を教えてください。", "refusal"),
        ("とても良い映画です。" * 20, "repetition"),
        ("ドラマです。", "short"),
        (JAPANESE_QUESTION.messages[-1][1], "echo"),
    ],
)
def test_answers_in_japanese(text: str, name: str | None) -> None:
    assert problem(Completion(text, 50, 30), JAPANESE_QUESTION, LANGUAGES["ja"]) == name


def test_a_japanese_film_in_the_words_of_the_model() -> None:
    assert JAPANESE_QUESTION.messages[-1][1] == (
        "映画『雪国の灯台』（1998；ドラマ、恋愛）について、次の点を二文で説明してください："
        "テーマとあらすじ、雰囲気、どのような人に好まれるか。"
    )


@pytest.mark.parametrize(
    ("code", "wish"),
    [
        ("fr", "Answer in French."),
        ("pt-BR", "Answer in Portuguese."),
        ("eu", "Answer in the language with the code eu."),
        ("other", "Answer in the language of the names."),
    ],
)
def test_another_language_is_asked_for_in_english(code: str, wish: str) -> None:
    question = item_prompt(TextsConfig(language=code), {"title": "Amélie"}, 8)
    assert question.messages[-1][1] == item_prompt(TextsConfig(), {"title": "Amélie"}, 8).messages[-1][1] + f" {wish}"
    again = asked_again(question, language_of(code)).messages[-1][1].splitlines()[-1]
    assert again.startswith(f"{wish.removesuffix('.')}, with one or two short")


@pytest.mark.parametrize(
    ("code", "differs"),
    [
        ("de", True),
        ("es", True),
        ("fr-CA", True),
        ("ja", True),
        ("ru", True),
        ("pl", False),
        ("eu", False),
        ("other", False),
    ],
)
def test_languages_of_which_english_is_told(code: str, differs: bool) -> None:
    assert language_of(code).differs_from_english == differs


FRENCH = "Ce film raconte l'histoire d'une jeune femme qui change la vie des gens, pour tous ceux qui aiment rêver."
SPANISH = "La película cuenta la historia de una joven que cambia la vida de todos los que viven con ella en París."
RUSSIAN = "Фильм рассказывает о похищении, которое идёт не по плану, и понравится любителям чёрного юмора."
ENGLISH_ANSWER = "The film is about a young woman who changes the life of all the people around her in Paris."


@pytest.mark.parametrize(
    ("code", "text", "name"),
    [
        ("fr", FRENCH, None),
        ("fr", RUSSIAN, "language"),
        ("fr", ENGLISH_ANSWER, "language"),
        ("es", ENGLISH_ANSWER, "language"),
        ("es", SPANISH, None),
        ("ru", RUSSIAN, None),
        ("ru", ENGLISH_ANSWER, "language"),
        ("ko", "이 영화는 파리에 사는 젊은 여성이 주변 사람들의 삶을 바꾸는 이야기를 그립니다.", None),
        ("ko", ENGLISH_ANSWER, "language"),
        ("hi", "यह फ़िल्म पेरिस की एक युवती की कहानी है जो लोगों का जीवन बदल देती है।", None),
        ("th", "ภาพยนตร์เรื่องนี้เล่าเรื่องหญิงสาวในปารีสที่เปลี่ยนชีวิตผู้คนรอบตัว", None),
        ("eu", "Film honek Parisko emakume gazte baten istorioa kontatzen du eta denei gustatuko zaie.", None),
        ("other", RUSSIAN, None),
        ("other", FRENCH, None),
        ("other", "War, " * 12, "repetition"),
        ("other", "", "empty"),
    ],
)
def test_answers_in_other_languages(code: str, text: str, name: str | None) -> None:
    question = item_prompt(TextsConfig(language=code), {"title": "Amélie", "year": 2001}, 64)
    assert problem(Completion(text, 50, 30), question, language_of(code)) == name


def test_forms_of_english_are_those_that_spaces_were_made_with(tmp_path: Path) -> None:
    """Vectors of MovieLens are shipped, and published elsewhere, under these fingerprints."""
    small = synthetic(tmp_path, users=2, items=3, events=6)
    read = inputs(small.config, small.catalogue, small.log, tmp_path, trained_rows=0)
    assert text_form(read) == "847b1dca0ae1ef29"
    assert liber._form(read) == "12182ea2470f3a23"
    assert fingerprint(ENGLISH.sentences.second_try) == "8aa073002180c220"
