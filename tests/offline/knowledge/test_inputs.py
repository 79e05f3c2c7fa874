"""Producers at their beginning: little data, texts that are not there yet, and what stays when they are fitted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.contract.arrays import FloatArray
from models.contract.schema import KnowledgeSpec
from offline.config import JobConfig
from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog
from offline.knowledge.config import (
    AutoGraphConfig,
    CompressionConfig,
    FittingConfig,
    GroupsConfig,
    NetworkConfig,
    QuantiserConfig,
)
from offline.knowledge.errors import NotFittedError, TooFewError
from offline.knowledge.inputs import ProducerInputs
from offline.knowledge.marc import states
from offline.knowledge.needs import Supply
from offline.knowledge.run import ORDER, producer
from offline.knowledge.vectors import Produced, forget_former
from offline.llm.protocol import Completion, PermanentError, Prompt
from tests.offline.knowledge.fakes import EchoModel, HashEncoder, inputs, vector_of
from tests.offline.pipeline import CountingModel, Pipeline
from tests.synthetic import PARTITION_SIZE, SCHEMA, Synthetic, synthetic

DIM = 8
SPECS = (
    *(
        KnowledgeSpec(name=name, side=side, dim=DIM)
        for name, side in (
            ("text", "item"),
            ("liber", "user"),
            ("autograph", "user"),
            ("autograph", "item"),
            ("marc", "user"),
            ("marc", "item"),
            ("groups", "user"),
            ("groups", "item"),
        )
    ),
    KnowledgeSpec(name="numbers", side="item", dim=12),
)
ENOUGH = 1000
"""Rows of the training period in which every producer finds enough."""


class _Reader:
    """Stands in for the language model whose states MARC reads; remembers what it read."""

    id = "fake"
    former_ids: tuple[str, ...] = ()
    read_texts: tuple[str, ...] = ()

    def __init__(self, *arguments: object, precision: str) -> None:
        return None

    def read_chunks(
        self, chunks: Sequence[Sequence[str]], depths: Sequence[float]
    ) -> Iterator[tuple[int, dict[float, FloatArray]]]:
        for position, texts in enumerate(chunks):
            _Reader.read_texts += tuple(texts)
            yield position, {depth: np.array([vector_of(text) for text in texts], np.float32) for depth in depths}


@pytest.fixture(autouse=True)
def _no_language_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "LanguageModelStates", _Reader)
    monkeypatch.setattr(_Reader, "read_texts", ())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    small = synthetic(tmp_path_factory.mktemp("synthetic"), users=40, items=20, events=30)
    return replace(small, config=_small(small.config))


def _small(config: JobConfig) -> JobConfig:
    codes = QuantiserConfig(size=4, hidden=8, dim=4, steps=5, batch=32)
    autograph = AutoGraphConfig(
        user_factors=codes,
        item_factors=codes,
        network=NetworkConfig(hidden=8, heads=2, dim=DIM, slices=3),
        fitting=FittingConfig(epochs=1, refit=False),
    )
    compression = CompressionConfig(hidden=16, matching_width=8, epochs=1, batch_size=256)
    marc = config.knowledge.marc.model_copy(update={"compression": compression})
    groups = GroupsConfig(items=4, users=3, least_users=2)
    knowledge = config.knowledge.model_copy(update={"autograph": autograph, "marc": marc, "groups": groups})
    schema = SCHEMA.model_copy(update={"knowledge": SPECS})
    return config.model_copy(update={"feature_schema": schema, "knowledge": knowledge})


def read(
    data: Synthetic,
    folder: Path,
    log: InteractionLog,
    trained_rows: int | None = None,
    *,
    catalogue: Catalogue | None = None,
    model: EchoModel | None = None,
    encoder: HashEncoder | None = None,
) -> ProducerInputs:
    return inputs(
        data.config,
        catalogue or data.catalogue,
        log,
        folder,
        trained_rows=len(log) if trained_rows is None else trained_rows,
        model=model,
        encoder=encoder,
    )


def of_users(data: Synthetic, events: dict[str, int], value: float = 5.0) -> InteractionLog:
    """A log of so many events of each user; the catalogue's other users and items have none."""
    rows = [
        (user, f"i{(at + 3 * int(user[1:])) % 20}", value, 1000 * at)
        for user, count in events.items()
        for at in range(count)
    ]
    return InteractionLog.sorted_by_time(rows, list(data.catalogue.users), list(data.catalogue.items))


TINY = {
    "nobody has closed a partition": {"u1": 3, "u2": 4},
    "one user with one partition": {"u1": PARTITION_SIZE, "u2": 2},
    "nobody with a second partition": {f"u{at}": PARTITION_SIZE for at in range(12)},
}


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        *(("liber", 5.0, kind) for kind in list(TINY)[:2]),
        *(("autograph", 1.0, kind) for kind in TINY),
        *(("marc", 5.0, kind) for kind in TINY),
    ],
)
def test_a_small_log_makes_a_producer_wait_and_say_why(
    data: Synthetic, tmp_path: Path, kind: str, name: str, value: float
) -> None:
    with pytest.raises(TooFewError, match=r"needs .* there are "):
        producer(name)(read(data, tmp_path, of_users(data, TINY[kind], value)))
    assert [path for path in tmp_path.rglob("*.npz") if "states" not in path.parts] == []


@pytest.mark.parametrize("name", ["liber", "autograph", "marc"])
def test_partitions_after_the_training_period_found_nothing(data: Synthetic, tmp_path: Path, name: str) -> None:
    with pytest.raises(TooFewError, match="needs "):
        producer(name)(read(data, tmp_path, data.log, PARTITION_SIZE - 1))


def test_the_reason_counts(data: Synthetic, tmp_path: Path) -> None:
    def reason(name: str, log: InteractionLog) -> str:
        with pytest.raises(TooFewError) as caught:
            producer(name)(read(data, tmp_path, log))
        return caught.value.needs

    period = "of the training period"
    one_user, nobody_twice = (of_users(data, TINY[kind]) for kind in list(TINY)[1:])
    assert reason("liber", one_user) == f"2 encoded summaries {period} to fit 4 dimensions, there are 1"
    assert reason("marc", nobody_twice).startswith("640 interactions")
    assert reason("autograph", one_user) == (f"8 encoded summaries {period} to fit latent factors, there are 1")
    assert re.search(f"^640 interactions {period} .* there are 0, 0 of them likes$", reason("marc", one_user))


@pytest.mark.parametrize("name", ["text", "liber", "autograph", "marc"])
@pytest.mark.parametrize(
    "events", [*TINY.values(), {"u1": PARTITION_SIZE, "u2": PARTITION_SIZE}, {f"u{at}": 20 for at in range(40)}]
)
def test_who_is_told_to_wait_would_have_made_nothing(
    data: Synthetic, tmp_path: Path, name: str, events: dict[str, int]
) -> None:
    """What is foreseen before a prompt is paid keeps nobody from what two texts are enough for."""
    log = of_users(data, events)
    work = read(data, tmp_path, log)
    described = np.array([data.config.data.texts.describes(data.catalogue.items[item]) for item in log.item_ids])
    foreseen = Supply(work, len(log), described).unmet(name)
    try:
        producer(name)(work)
        waits = False
    except TooFewError:
        waits = True
    assert waits or not foreseen
    assert bool(foreseen) == waits or name in ("autograph", "marc"), "what texts need is known to the last text"


def test_few_texts_fill_few_dimensions_and_more_of_them_found_the_space_anew(data: Synthetic, tmp_path: Path) -> None:
    """A small shop has text knowledge at once. A new space makes a new model, so it comes when twice as many dimensions
    can be filled, and not whenever a text is added."""

    def liber(**partitions: int) -> tuple[Produced, str]:
        log = of_users(data, {user: PARTITION_SIZE * count for user, count in partitions.items()})
        produced = producer("liber")(read(data, tmp_path, log))
        assert produced.users is not None
        return produced, produced.users.space.components.get("rank", "full")

    first, rank = liber(u1=1, u2=1)
    assert first.users is not None
    assert rank == "1+0"
    assert first.users.vectors.shape == (2, DIM)
    assert (first.users.vectors != 0).any(axis=0).tolist() == [True] + [False] * (DIM - 1)
    assert float((first.users.vectors[:, : DIM // 2] ** 2).mean()) == pytest.approx(0.5, rel=1e-4)
    assert liber(u1=1, u2=1)[0].spaces == first.spaces
    more, rank = liber(u1=2, u2=1)
    assert (rank, more.spaces == first.spaces) == ("2+0", False)  # the one shift differs from no other
    assert liber(u1=2, u2=2)[1] == "2+1"
    whole, rank = liber(**{f"u{at}": 2 for at in range(10)})
    assert rank == "full"
    assert liber(**{f"u{at}": 3 for at in range(12)})[0].spaces == whole.spaces


def test_a_space_that_is_fitted_anew_is_made_in_its_former_form_too(data: Synthetic, tmp_path: Path) -> None:
    """Until a release of the new one is live, whatever is fitted meanwhile."""

    def liber(**partitions: int) -> Produced:
        log = of_users(data, {user: PARTITION_SIZE * count for user, count in partitions.items()})
        return producer("liber")(read(data, tmp_path, log))

    first = liber(u1=1, u2=1)
    assert (first.former, first.users is not None) == (None, True)
    for partitions in ({"u1": 2, "u2": 1}, {f"u{at}": 2 for at in range(10)}):
        later = liber(**partitions)
        assert later.former is not None
        assert later.former.spaces == first.spaces != later.spaces
        assert later.users is not None
        assert later.former.users is not None
        assert first.users is not None
        assert len(later.former.users.vectors) == len(later.users.vectors) > 2
        assert (later.former.users.vectors[:, 1:] == 0).all()
    later.save(tmp_path)
    assert Produced.load(tmp_path).former is not None
    forget_former(tmp_path.parent)
    assert liber(**partitions).former is None


def test_few_texts_do_not_found_a_space_while_others_are_to_come(data: Synthetic, tmp_path: Path) -> None:
    few = of_users(data, {"u1": PARTITION_SIZE, "u2": PARTITION_SIZE})
    more = of_users(data, {f"u{at}": 2 * PARTITION_SIZE for at in range(10)})
    first = producer("liber")(read(data, tmp_path, few))
    known = [prompt for prompts in _asked(data, tmp_path, few).values() for prompt in prompts]
    late = producer("liber")(read(data, tmp_path, more, model=EchoModel(absent=lambda prompt: prompt not in known)))
    assert late.spaces == first.spaces


def test_a_small_catalogue_has_vectors_of_its_texts(data: Synthetic, tmp_path: Path) -> None:
    three = Catalogue(data.catalogue.users, dict(list(data.catalogue.items.items())[:3]))
    items = producer("text")(read(data, tmp_path, data.log, catalogue=three)).items
    assert items is not None
    assert items.space.components["rank"] == "2"
    assert items.space.dim == DIM
    assert np.linalg.matrix_rank(items.published) == 2
    assert len(np.unique(items.published[items.known], axis=0)) == 3
    whole = producer("text")(read(data, tmp_path, data.log)).items
    assert whole is not None
    assert "rank" not in whole.space.components


def _asked(data: Synthetic, folder: Path, log: InteractionLog) -> dict[str, list[Prompt]]:
    """The prompts of LIBER over a log, by label."""
    model = EchoModel()
    producer("liber")(read(data, folder / "elsewhere", log, model=model))
    return model.asked


@pytest.mark.parametrize("name", ["autograph", "marc"])
def test_without_a_like_there_is_nothing_to_fit_on(data: Synthetic, tmp_path: Path, name: str) -> None:
    log = replace(data.log, value=np.full(len(data.log), 1.0, np.float32))
    with pytest.raises(TooFewError, match=r"needs .*likes"):
        producer(name)(read(data, tmp_path, log))


def test_without_likes_liber_has_summaries_all_the_same(data: Synthetic, tmp_path: Path) -> None:
    log = replace(data.log, value=np.full(len(data.log), 1.0, np.float32))
    assert producer("liber")(read(data, tmp_path, log)).users is not None


@pytest.mark.parametrize("name", ["text", "autograph", "marc", "groups", "numbers"])
def test_items_without_a_description_are_too_little_too(data: Synthetic, tmp_path: Path, name: str) -> None:
    nameless = Catalogue(data.catalogue.users, {})
    with pytest.raises(TooFewError, match=r"needs .* there are 0"):
        producer(name)(read(data, tmp_path, data.log, catalogue=nameless))


def test_texts_that_are_all_alike_span_no_space(data: Synthetic, tmp_path: Path) -> None:
    alike = Catalogue(data.catalogue.users, dict.fromkeys(data.catalogue.items, data.catalogue.items["i0"]))
    with pytest.raises(TooFewError, match=r"needs .* all 20 are alike"):
        producer("text")(read(data, tmp_path, data.log, catalogue=alike))


@pytest.mark.parametrize("name", ORDER)
def test_what_is_fitted_goes_on_with_next_to_nothing(data: Synthetic, tmp_path: Path, name: str) -> None:
    """Also when no text can be had any more, say because the answers were deleted and the end point is down."""
    first = producer(name)(read(data, tmp_path, data.log, ENOUGH))
    for log in (data.log, of_users(data, TINY["nobody has closed a partition"])):
        later = producer(name)(read(data, tmp_path, log, model=EchoModel(absent=lambda prompt: True)))
        assert later.spaces == first.spaces
    nameless = Catalogue(data.catalogue.users, {})
    assert producer(name)(read(data, tmp_path, data.log, catalogue=nameless)).spaces == first.spaces


@pytest.mark.parametrize(
    ("name", "start"),
    [("liber", "A viewer"), ("autograph", "A viewer"), ("autograph", "Describe"), ("marc", "A viewer"),
     ("marc", "Describe")],
)  # fmt: skip
def test_nothing_is_encoded_before_all_texts_of_the_training_period_are_there(
    data: Synthetic, tmp_path: Path, name: str, start: str
) -> None:
    """Texts that are encoded in parts are rounded in other batches than those that are encoded at once."""
    first = EchoModel()
    producer(name)(read(data, tmp_path / "whole", data.log, ENOUGH, model=first))
    missing = next(
        prompt for prompts in first.asked.values() for prompt in prompts if prompt.messages[0][1].startswith(start)
    )
    encoder, model = HashEncoder(), EchoModel(absent=lambda prompt: prompt == missing)
    _Reader.read_texts = ()
    with pytest.raises(NotFittedError, match="1 texts of the training period are still missing"):
        producer(name)(read(data, tmp_path / "part", data.log, ENOUGH, model=model, encoder=encoder))
    assert (encoder.asked, _Reader.read_texts) == ([], ())
    assert not (tmp_path / "part").exists()


def test_a_part_is_not_fitted_before_the_others_can_be(data: Synthetic, tmp_path: Path) -> None:
    """LIBER's summaries and shifts are fitted on the same training period."""
    shift = EchoModel(absent=lambda prompt: prompt.messages[0][1].startswith("Some time ago"))
    with pytest.raises(NotFittedError, match="still missing"):
        producer("liber")(read(data, tmp_path, data.log, ENOUGH, model=shift))
    assert not list(tmp_path.rglob("*.npz"))


class _Filtering(CountingModel):
    """Refuses one partition's summary for good, as a content filter does."""

    filtered = ""

    async def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        if prompts[0].messages[-1][1] == self.filtered:
            raise PermanentError("400: filtered")
        return await super().complete(prompts)


def test_a_prompt_that_is_refused_for_good_holds_up_the_fit_for_one_run(
    fresh: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh.model = model = _Filtering(fresh.folder / "paid.jsonl")
    log = fresh.data.log
    seen = read(Synthetic(fresh.config, fresh.data.catalogue, log, fresh.data.knowledge), fresh.folder, log)
    model.filtered = seen.texts.summary_prompts[0].messages[-1][1]
    entry, _ = fresh.paid_by()
    assert (entry["status"], entry["exit_code"], entry["producers"]["liber"]["state"]) == ("partial", 3, "waits")
    assert entry["llm"]["absent"] == 1
    capsys.readouterr()
    entry, paid = fresh.paid_by()
    assert "interest summaries: 48 prompts: 47 usable, 1 bad (1 refused), 0 absent" in capsys.readouterr().out
    assert (entry["status"], entry["exit_code"], entry["producers"]["liber"]["state"]) == ("done", 0, "made")
    assert (entry["llm"]["absent"], entry["llm"]["failures"], entry["bad_answers"]) == (0, 1, {"refused": 1})
    assert entry["producers"]["liber"]["versions"] == 47
    fresh.close_partition_of("u3")
    entry, paid = fresh.paid_by()
    assert (entry["status"], entry["llm"]["failures"], len(paid)) == ("done", 0, 2)
    assert entry["llm"]["refused"] > 0
    assert entry["bad_answers"] == {}
    model.filtered = ""  # the filter was loosened
    assert fresh.paid_by()[1] == []
    entry, paid = fresh.paid_by(ask_refused=True)
    assert (entry["status"], entry["producers"]["liber"]["versions"]) == ("done", 49)
    assert paid[0] == seen.texts.summary_prompts[0].messages[-1][1]
    assert len(paid) == 2, "the summary, and the shift from it"
    assert fresh.paid_by()[0]["bytes_written"] == 0
