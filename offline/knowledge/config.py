"""Settings of the producers of knowledge. No torch in here: reading a configuration loads none."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from string import Formatter, ascii_uppercase
from typing import Annotated, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from models.contract.schema import FrozenConfig
from offline.knowledge.liber.partitions import Trigger

PACKAGED_ENCODER = "all-MiniLM-L6-v2"
"""The text encoder whose weights are a package, the default. It reads English."""
MULTILINGUAL_ENCODER = "use-multilingual-3"
"""A text encoder of sixteen languages, from a package that is no dependency (offline/knowledge/multilingual.py)."""

Dtype = Literal["float16", "int8"]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0)]
Sentence = Annotated[str, Field(min_length=1, max_length=2000)]
_ABSENT_WHEN_OFF = Field(exclude_if=lambda value: not value)
"""Of a setting that came later: where it is off, producers are as up to date as they were before there was one."""


class _Settings(BaseModel):
    """Typed settings that cannot change and refuse an unknown name."""

    model_config = FrozenConfig


class QuantiserConfig(_Settings):
    """An autoencoder width -> hidden -> dim with a residual quantiser of ``levels`` codebooks in its middle.

    ``size`` codes per codebook; fewer where there are too few vectors. ``steps`` of ``batch`` vectors each.
    """

    size: Annotated[int, Field(ge=2, le=65535)] = 256
    levels: Annotated[int, Field(ge=1, le=8)] = 3
    hidden: Count = 128
    dim: Count = 32
    steps: Count = 500
    batch: Count = 512
    learning_rate: Rate = 1e-3
    weight_decay: Decay = 1e-3
    commitment: Decay = 0.25
    kmeans_iterations: Count = 50


class NetworkConfig(_Settings):
    """The attention network and the caps of its neighbourhoods.

    ``neighbours``: newest likers of an item; ``members`` of a factor; ``history``: a user's newest likes. ``item_ids``:
    items that were liked in the training period also have an embedding of their own. ``slices``: how often within the
    training period the graph is taken anew.
    """

    hidden: Count = 32
    heads: Count = 2
    dim: Count = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    item_ids: bool = True
    neighbours: Count = 15
    members: Count = 15
    history: Count = 15
    slices: Count = 8

    @model_validator(mode="after")
    def _heads_share_the_hidden_numbers(self) -> NetworkConfig:
        if self.hidden % self.heads:
            raise ValueError("hidden must be a multiple of heads")
        return self


class FittingConfig(_Settings):
    """Softmax cross-entropy of one positive against ``negatives`` uniform items each (0: against all items).

    ``validation``: the last share of the training rows, which chooses the epoch. ``refit``: then train once more, on
    all training rows, for as many epochs. ``fresh``: share of samples whose user knows its likes up to the sample, as a
    matching request would; the others know them up to the user version's closing, as a published vector does.
    """

    epochs: Count = 25
    patience: Count = 2
    batch: Count = 2048
    learning_rate: Rate = 6e-3
    weight_decay: Decay = 1e-2
    negatives: Annotated[int, Field(ge=0)] = 0
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    refit: bool = True
    fresh: Annotated[float, Field(ge=0, le=1)] = 0.5


class FrozenPartsConfig(_Settings):
    """All that AutoGraph's frozen parts depend on: the two quantisers, the network, and how it is fitted.

    Defaults are the authors' (arXiv 2412.18241, our reading) where they say one and where no measurement spoke against
    it; docs/autograph.md has the measurements.
    """

    user_factors: QuantiserConfig = QuantiserConfig(size=300)
    item_factors: QuantiserConfig = QuantiserConfig()
    network: NetworkConfig = NetworkConfig()
    fitting: FittingConfig = FittingConfig()
    seed: int = 1


class CompressionConfig(_Settings):
    """How a compression is trained. ``alpha`` and ``beta`` weigh the constraint; both 0 turn it off.

    ``hidden`` is raised to twice ``dim`` where it is less. ``biases`` gives every user version and every item a score
    of its own beside the matching network. ``constraint_rows`` of each batch enter the constraint, whose cost grows
    with their square. ``held_out`` is the last share of the training pairs, which only says when to stop. The defaults
    were measured: docs/marc.md.
    """

    dim: Annotated[int, Field(ge=1, le=4096)] = 32
    hidden: Count = 128
    shared: bool = False
    matching: Literal["attention", "feed-forward"] = "attention"
    matching_width: Count = 32
    biases: bool = True
    alpha: Decay = 10.0
    beta: Decay = 0.1
    constraint_rows: Annotated[int, Field(ge=2)] = 256
    batch_size: Annotated[int, Field(ge=2)] = 512
    epochs: Count = 4
    patience: Count = 2
    learning_rate: Rate = 1e-3
    weight_decay: Decay = 1e-2
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    seed: int = 0


class PlainTextConfig(_Settings):
    """The control: items' own texts, encoded without a language model."""

    dtype: Dtype = "float16"


class LiberConfig(_Settings):
    """When a user's cache of interactions closes, and what is asked about a closed partition.

    With ``previous`` a question tells the summary of the partition before, so a user's partitions are asked about one
    after the other. ``profile`` names features of users that questions tell. ``encoder_tokens`` cut what LIBER encodes
    of partitions; None: as [knowledge] encoder_tokens.
    """

    partition_size: Annotated[int, Field(ge=2, le=500)] | None = 50
    partition_days: Rate | None = None
    titles: Annotated[int, Field(ge=1, le=500)] = 20  # at most so many liked, and so many others, are told to the model
    summary_tokens: Annotated[int, Field(ge=8, le=2048)] = 64
    previous: Annotated[bool, _ABSENT_WHEN_OFF] = False
    profile: Annotated[tuple[str, ...], _ABSENT_WHEN_OFF] = ()
    encoder_tokens: Annotated[int | None, Field(ge=16, le=512, exclude_if=lambda tokens: tokens is None)] = None
    shift: bool = True
    shift_tokens: Annotated[int, Field(ge=8, le=2048)] = 48
    dtype: Dtype = "float16"

    @model_validator(mode="after")
    def _partitions_close(self) -> LiberConfig:
        if self.partition_size is None and self.partition_days is None:
            raise ValueError("partitions need partition_size, partition_days, or both")
        return self

    @property
    def trigger(self) -> Trigger:
        span = None if self.partition_days is None else round(self.partition_days * 86_400_000)
        return Trigger(self.partition_size, span)


class MarcConfig(_Settings):
    """The language model whose states are compressed. ``depth`` is a fraction of its layers (the sweep that chose it:
    docs/marc.md). ``model`` None: the packaged SmolLM2; states cannot be had from a server."""

    model: Path | None = None
    depth: Annotated[float, Field(gt=0, le=1)] = 0.5
    max_tokens: Annotated[int, Field(ge=8, le=4096)] = 192
    titles: bool = True  # partitions are read with their titles: better, and twice as slow
    compression: CompressionConfig = CompressionConfig()
    dtype: Dtype = "int8"


def _check_words(what: str, words: str, known: Collection[str], needed: Collection[str] = ()) -> None:
    """ValueError unless ``words`` can be filled in: the names in braces are ``known``, and the ``needed`` are there."""
    try:
        named = {name for _, name, _, _ in Formatter().parse(words) if name is not None}
    except ValueError as error:
        raise ValueError(f"{what}: {error} in {words!r}; a brace is written twice") from error
    if unknown := named - set(known):
        names = ", ".join(f"{{{name}}}" for name in sorted(known))
        raise ValueError(f"{what}: {{{min(unknown)}}} stands for nothing; there are {names}; a brace is written twice")
    if missing := set(needed) - named:
        raise ValueError(f"{what}: {{{min(missing)}}} is missing in {words!r}")


class NumberQuestion(_Settings):
    """A question about an item whose answer is a number: ``ask`` in words, and the ``answers`` to choose from, from the
    low end of the scale to the high one. "{noun}" in them stands for the data set's word for an item."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
    ask: Sentence
    answers: Annotated[tuple[Sentence, ...], Field(min_length=2, max_length=9)]

    @model_validator(mode="after")
    def _words_are_templates(self) -> NumberQuestion:
        for words in (self.ask, *self.answers):
            _check_words(f"question {self.name!r}", words, {"noun"})
        return self


QUESTIONS = tuple(
    NumberQuestion(name=name, ask=ask, answers=answers)
    for name, ask, answers in (
        ("acclaim", "How good is this {noun} in the eyes of critics?", ("very bad", "mediocre", "good", "outstanding")),
        ("appeal", "How many people would enjoy this {noun}?", ("hardly anybody", "a few", "many", "nearly everybody")),
        ("intensity", "How intense is this {noun}?", ("calm", "a little exciting", "exciting", "very intense")),
        ("seriousness", "How serious is this {noun}?", ("light and playful", "partly serious", "serious", "grave")),
        (
            "age",
            "For whom is this {noun} made?",
            ("small children", "children and families", "teenagers", "adults only"),
        ),
        ("novelty", "How unusual is this {noun}?", ("quite ordinary", "a little unusual", "unusual", "unique")),
    )
)
"""Questions that films, books and goods all have an answer to."""


class NumbersConfig(_Settings):
    """Questions whose answers are numbers, and how they are put: a conversation of the ``introduction`` with the item,
    the model's ``reply``, and a question with its answers, each behind a letter; so all questions about an item begin
    alike.

    Letters, because models of 1.5 B parameters and less prefer one digit of a scale whichever end is the high one, and
    are told what each letter means (docs/knowledge.md). ``both_orders`` asks each question once more with the answers
    in reverse and takes the mean: a preference for a letter cancels, for twice the calls. ``spread``: the standard
    deviation of an answer is a number, too. All words are in English, whatever the items' texts are in: a letter is an
    answer in any language. "{noun}" and "{item}" stand for the data set's words.
    """

    questions: Annotated[tuple[NumberQuestion, ...], Field(min_length=1, max_length=32)] = QUESTIONS
    introduction: Sentence = (
        "Here is the description of a {noun}:\n{item}\n\n"
        "Answer each question about it with the letter of an answer, and nothing else."
    )
    reply: Sentence = "I have read it."
    both_orders: bool = True
    spread: bool = True
    dtype: Dtype = "float16"

    @model_validator(mode="after")
    def _words_are_templates(self) -> NumbersConfig:
        _check_words("introduction", self.introduction, {"noun", "item"}, needed={"item"})
        names = [question.name for question in self.questions]
        if len(set(names)) < len(names):
            raise ValueError(f"two questions have one name: {', '.join(names)}")
        if len({len(question.answers) for question in self.questions}) > 1:
            raise ValueError("all questions need the same number of answers: one scale for all")
        return self

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters before the answers."""
        return tuple(ascii_uppercase[: len(self.questions[0].answers)])

    @property
    def orders(self) -> int:
        """How often each question is asked."""
        return 2 if self.both_orders else 1

    @property
    def dim(self) -> int:
        """Numbers of an item."""
        return len(self.questions) * (2 if self.spread else 1)


class GroupsConfig(_Settings):
    """How many groups of items and of users there are, what is told of one, and how they are made.

    ``members`` names of items stand in a question. One about users tells only what ``least_users`` of them liked.
    ``seed`` and ``iterations`` are those of k-means.
    """

    items: Annotated[int, Field(ge=2, le=65535)] = 100
    users: Annotated[int, Field(ge=2, le=65535)] = 100
    members: Annotated[int, Field(ge=1, le=500)] = 15
    least_users: Annotated[int, Field(ge=2)] = 5
    tokens: Annotated[int, Field(ge=8, le=2048)] = 64
    iterations: Count = 100
    seed: int = 1
    dtype: Dtype = "float16"


class AutoGraphConfig(FrozenPartsConfig):
    """Latent factors of items and users, and the network over them. The defaults were measured: docs/autograph.md."""

    dtype: Dtype = "float16"

    @property
    def frozen_parts(self) -> FrozenPartsConfig:
        return FrozenPartsConfig.model_validate(self.model_dump(exclude={"dtype"}))


class KnowledgeConfig(_Settings):
    """Settings that the producers of knowledge share: item texts, the text encoder, how long a record stays fresh.

    With ``faithful``, an answer that names what its question does not is bad (offline/knowledge/faithfulness.py).
    ``encoder`` is the packaged one, the multilingual one, or the path of a folder of another sentence-transformers
    model, whose files say how it pools; nothing is fetched. ``encoder_tokens`` cut a text, or what the model can read
    if that is less. Which producers run follows from the feature schema: those whose knowledge it lists.
    """

    item_tokens: Annotated[int, Field(ge=8, le=2048)] = 64
    faithful: Annotated[bool, _ABSENT_WHEN_OFF] = False
    encoder: str = PACKAGED_ENCODER
    encoder_tokens: Annotated[int, Field(ge=16, le=512)] = 128
    text: PlainTextConfig = PlainTextConfig()
    liber: LiberConfig = LiberConfig()
    autograph: AutoGraphConfig = AutoGraphConfig()
    marc: MarcConfig = MarcConfig()
    groups: GroupsConfig = GroupsConfig()
    numbers: NumbersConfig = NumbersConfig()
    shipped_responses: Path | None = None
    shipped_vectors: Path | None = None
    ttl_days: Rate = 30.0

    @property
    def partition_tokens(self) -> int:
        """The longest text that LIBER encodes of a partition, in tokens."""
        return self.liber.encoder_tokens or self.encoder_tokens

    @field_validator("encoder")
    @classmethod
    def _encoder_is_here(cls, name: str) -> str:
        if name not in (PACKAGED_ENCODER, MULTILINGUAL_ENCODER) and not Path(name).is_dir():
            raise ValueError(
                f"{name!r} is no folder. Give the folder of a sentence-transformers model on this machine (none is "
                f'fetched from a hub), "{MULTILINGUAL_ENCODER}", or leave it out for "{PACKAGED_ENCODER}"'
            )
        return name
