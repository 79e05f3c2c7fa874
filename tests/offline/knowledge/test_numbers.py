"""Numbers about items: how they are asked for, what they are by hand, and what stays when the catalogue grows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from models.contract.schema import KnowledgeSpec
from offline.data.catalogue import Catalogue
from offline.data.texts import TextsConfig
from offline.knowledge.config import NumberQuestion, NumbersConfig
from offline.knowledge.errors import NotFittedError
from offline.knowledge.inputs import ProducerInputs
from offline.knowledge.needs import shape_fault
from offline.knowledge.numbers import Weighed, produce
from offline.knowledge.prompts import number_prompts
from offline.knowledge.quality import problem, usable
from offline.knowledge.vectors import ItemVectors, Produced
from offline.llm.choices import ChoiceAnswer
from offline.llm.protocol import Answers, Completion, Prompt
from tests.offline.knowledge.fakes import EchoModel, inputs
from tests.synthetic import SCHEMA, Synthetic, synthetic

TWO = NumbersConfig(
    questions=(
        NumberQuestion(name="acclaim", ask="How good is this {noun}?", answers=("bad", "fair", "good")),
        NumberQuestion(name="age", ask="For whom is it?", answers=("children", "families", "adults")),
    ),
)
FARGO = {"title": "Fargo", "year": 1996, "genres": ["Crime"]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return synthetic(tmp_path_factory.mktemp("synthetic"), users=20, items=12, events=10)


def read(
    data: Synthetic,
    folder: Path,
    model: EchoModel | None = None,
    numbers: NumbersConfig = TWO,
    catalogue: Catalogue | None = None,
) -> ProducerInputs:
    schema = SCHEMA.model_copy(
        update={"knowledge": (KnowledgeSpec(name="numbers", side="item", dim=numbers.dim),)},
    )
    knowledge = data.config.knowledge.model_copy(update={"numbers": numbers})
    config = data.config.model_copy(update={"feature_schema": schema, "knowledge": knowledge})
    return inputs(config, catalogue or data.catalogue, data.log, folder, trained_rows=len(data.log), model=model)


def items_of(produced: Produced) -> ItemVectors:
    assert produced.items is not None
    assert produced.users is None
    return produced.items


def test_questions_about_an_item_begin_alike_and_name_its_fields() -> None:
    prompts = number_prompts(TextsConfig(), TWO, FARGO)
    assert {prompt.messages[:2] for prompt in prompts} == {
        (
            (
                "user",
                'Here is the description of a film:\n"Fargo" (1996; Crime)\n\n'
                "Answer each question about it with the letter of an answer, and nothing else.",
            ),
            ("assistant", "I have read it."),
        )
    }
    assert [prompt.messages[2][1] for prompt in prompts] == [
        "How good is this film?\nA: bad\nB: fair\nC: good",
        "For whom is it?\nA: children\nB: families\nC: adults",
        "How good is this film?\nA: good\nB: fair\nC: bad",
        "For whom is it?\nA: adults\nB: families\nC: children",
    ]
    for prompt in prompts:
        assert (prompt.max_tokens, prompt.choices, prompt.owner) == (1, ("A", "B", "C"), "")
        assert prompt.carries == frozenset({"items.title", "items.year", "items.genres"})
    single = number_prompts(TextsConfig(noun="toy"), TWO.model_copy(update={"both_orders": False}), {"title": "{noun}"})
    assert len(single) == 2
    assert '"{noun}"' in single[0].messages[0][1], "a title is no template"


def test_the_number_is_the_mean_of_the_scale_and_a_preferred_letter_cancels() -> None:
    def texts(*answers: tuple[float, ...]) -> list[str]:
        return [ChoiceAnswer(answer, 0.01).text(TWO.letters) for answer in answers]

    given = texts((0.1, 0.1, 0.2), (0.0, 0.0, 0.9)), texts((0.2, 0.1, 0.1), (0.0, 0.0, 0.9))
    weighed = Weighed.of([[*given[0], *given[1]], [], [None, given[0][1], *given[1]]], TWO)
    assert weighed.expected[0] == pytest.approx(np.array([[0.625, 1.0], [0.625, 0.0]]))
    assert weighed.numbers()[0] == pytest.approx([0.625, 0.5]), "always the last letter says nothing"
    assert weighed.spreads()[0] == pytest.approx([np.sqrt(0.25 * 0.5**2 + 0.5 - 0.625**2), 0.5])
    assert weighed.mass[0] == pytest.approx(np.array([[0.4, 0.9], [0.4, 0.9]]))
    assert np.isnan(weighed.numbers()[1]).all()
    assert np.isnan(weighed.numbers()[2]).tolist() == [True, False]
    assert weighed.unlisted[0] == pytest.approx(0.01)


def test_vectors_are_standardised_and_zero_where_nothing_is_known(data: Synthetic, tmp_path: Path) -> None:
    nameless = {**data.catalogue.items, data.log.item_ids[0]: {}}
    model = EchoModel(
        bad=lambda prompt: prompt.messages[-1][1].startswith("How good") and "0" in repr(prompt.messages[0])
    )
    whole = items_of(produce(read(data, tmp_path, model, catalogue=Catalogue(data.catalogue.users, nameless))))
    assert whole.space.key == "item/numbers"
    assert whole.known.tolist() == [False, *[True] * 11]
    assert not whole.published[0].any()
    known = whole.published[1:]
    assert known.mean(axis=0) == pytest.approx(np.zeros(4), abs=1e-5)
    bad = (known[:, 0] == 0) & (known[:, 2] == 0)
    assert bad.any(), "an answer that cannot be used leaves the mean of the others"
    assert known[:, [1, 3]].std(axis=0) == pytest.approx([1.0, 1.0], abs=1e-5)
    assert whole.from_row.tolist() == [0]


def test_a_new_item_has_numbers_on_the_scale_of_before(data: Synthetic, tmp_path: Path) -> None:
    late = data.log.item_ids[3]
    earlier = Catalogue(data.catalogue.users, {**data.catalogue.items, late: {}})
    before = items_of(produce(read(data, tmp_path, catalogue=earlier)))
    after = items_of(produce(read(data, tmp_path)))
    assert after.space == before.space
    rest = np.arange(12) != 3
    np.testing.assert_array_equal(after.published[rest], before.published[rest])
    assert (before.known[3], after.known[3]) == (False, True)
    assert after.published[3].any()
    renamed = {**data.catalogue.items, late: {"title": "Another"}}
    moved = items_of(produce(read(data, tmp_path, catalogue=Catalogue(data.catalogue.users, renamed))))
    assert moved.space == before.space
    assert (moved.published[3] != after.published[3]).any()


@pytest.mark.parametrize(
    "change",
    [
        {"reply": "Yes."},
        {"introduction": "{item}"},
        {"questions": TWO.questions[::-1]},
    ],
)
def test_other_questions_are_another_space(data: Synthetic, tmp_path: Path, change: dict[str, object]) -> None:
    other = TWO.model_copy(update=change)
    spaces = {items_of(produce(read(data, tmp_path, numbers=numbers))).space.fingerprint for numbers in (TWO, other)}
    assert len(spaces) == 2


def test_nothing_is_standardised_before_all_answers_are_there(data: Synthetic, tmp_path: Path) -> None:
    title = data.catalogue.items[data.log.item_ids[3]]["title"]
    gap = EchoModel(absent=lambda prompt: f'"{title}"' in prompt.messages[0][1])
    with pytest.raises(NotFittedError, match="still missing"):
        produce(read(data, tmp_path, gap))
    assert not list(tmp_path.rglob("*.npz"))
    produce(read(data, tmp_path))
    part = items_of(produce(read(data, tmp_path, gap)))
    assert part.known.tolist() == [at != 3 for at in range(12)]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"introduction": "A film:"}, "{item} is missing"),
        ({"introduction": "{item} {title}"}, "{title} stands for nothing"),
        ({"questions": ({"name": "a", "ask": "{item}?", "answers": ("no", "yes")},)}, "{item} stands for nothing"),
        ({"introduction": "{item} {"}, "a brace is written twice"),
        ({"questions": ()}, "at least 1"),
        ({"questions": (TWO.questions[0], TWO.questions[0])}, "two questions have one name"),
        ({"questions": ({"name": "a", "ask": "Good?", "answers": ("yes",)},)}, "at least 2"),
        ({"questions": (TWO.questions[0], {"name": "a", "ask": "?", "answers": ("no", "yes")})}, "the same number of"),
    ],
)
def test_words_that_cannot_be_filled_in_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        NumbersConfig.model_validate(settings)
    assert says in str(caught.value)


def test_the_space_holds_the_questions_and_their_spreads(data: Synthetic) -> None:
    knowledge = data.config.knowledge
    assert knowledge.numbers.dim == 12
    for dim, fault in (
        (12, ""),
        (8, "needs dim = 12: 6 questions (knowledge.numbers.questions) and the spread of each"),
    ):
        schema = SCHEMA.model_copy(update={"knowledge": (KnowledgeSpec(name="numbers", side="item", dim=dim),)})
        assert shape_fault("numbers", knowledge, schema) == fault
    bare = knowledge.model_copy(update={"numbers": NumbersConfig(spread=False)})
    schema = SCHEMA.model_copy(update={"knowledge": (KnowledgeSpec(name="numbers", side="item", dim=6),)})
    assert shape_fault("numbers", bare, schema) == ""


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (ChoiceAnswer((0.3, 0.3, 0.3)).text(TWO.letters), None),
        (ChoiceAnswer((0.004, 0.004, 0.001), 0.001).text(TWO.letters), "choice"),
        ("The film is good.", "choice"),
        ("", "choice"),
    ],
)
def test_an_answer_that_is_hardly_a_letter_is_bad(text: str, wrong: str | None) -> None:
    prompt = number_prompts(TextsConfig(), TWO, FARGO)[0]
    assert problem(Completion(text, 50, 1), prompt) == wrong


def test_a_bad_answer_is_not_asked_for_again() -> None:
    asked: list[str] = []

    class Session:
        def ask_all(self, prompts: Sequence[Prompt], progress_label: str) -> Answers:
            asked.append(progress_label)
            return Answers(tuple(Completion("no list", 9, 1) for _ in prompts))

    result = usable(Session(), number_prompts(TextsConfig(), TWO, FARGO), "numbers")
    assert result.states == ("bad",) * 4
    assert result.left == {"choice": 4}
    assert asked == ["numbers"]
