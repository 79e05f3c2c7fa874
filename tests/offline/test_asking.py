"""The language model as producers ask it: given texts are not asked for."""

from __future__ import annotations

from offline.asking import given_texts, kinds_of_texts, with_given
from offline.data.texts_import import ImportedTexts
from offline.knowledge.quality import Usable
from offline.knowledge.texts import item_prompt
from offline.llm.protocol import Prompt
from tests.offline.pipeline import Pipeline


def prompt(text: str) -> Prompt:
    return Prompt((("user", text),), 8)


def test_given_texts_stand_in_their_places() -> None:
    answers = Usable(("b", None, None), ("ok", "bad", "absent"), {}, {})
    both = with_given([prompt("a"), prompt("b"), prompt("c"), prompt("d")], {prompt("a"): "given"}, answers)
    assert list(both.texts) == ["given", "b", None, None]
    assert list(both.absent) == [False, False, False, True]


def test_imported_texts_answer_what_would_be_asked_about_an_item(fresh: Pipeline) -> None:
    ImportedTexts({"i1": "A film about trains.", "of another catalogue": "x"}, ()).save(fresh.job.imported)
    catalogue = fresh.data.catalogue
    words, tokens = fresh.config.data.texts, fresh.config.knowledge.item_tokens
    given = given_texts(fresh.job, catalogue)
    assert given == {item_prompt(words, catalogue.items["i1"], tokens): "A film about trains."}


def test_each_kind_of_text_is_asked_for_once(fresh: Pipeline) -> None:
    assert kinds_of_texts(fresh.job, ["text"]) == ()
    assert kinds_of_texts(fresh.job, ["text", "liber"]) == ("summaries", "shifts")
    assert kinds_of_texts(fresh.job, ["marc", "autograph", "liber"]) == ("summaries", "shifts", "items")
    silent = fresh.with_config(knowledge={"liber": {"partition_size": 5, "shift": False}})
    assert kinds_of_texts(silent.job, ["liber"]) == ("summaries",)
