"""Numbers in place of prose: a language model answers fixed questions about an item with a letter each, and the number
is the mean of the scale, from 0 to 1, under the probabilities of its letters. Nothing is generated.

Reads items' own texts alone, so a new item has its numbers before anybody met it. What a model learnt elsewhere is in
them, too: of a well-known film it may know what people thought of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.contract.arrays import BoolArray, FloatArray
from models.contract.schema import fingerprint
from offline.knowledge.config import NumbersConfig
from offline.knowledge.inputs import ProducerInputs, projection_path, space
from offline.knowledge.projection import Projection
from offline.knowledge.prompts import number_prompts
from offline.knowledge.vectors import ItemVectors, Produced
from offline.llm.choices import ChoiceAnswer


@dataclass(frozen=True, slots=True)
class Weighed:
    """Answers about n items: ``probabilities`` [n, orders, questions, answers] from the low end of each scale to the
    high one, whichever way it was put; they sum to 1, and are nan where there is no answer. ``mass`` [n, orders,
    questions] is what the letters had of all next tokens, ``unlisted`` as in ``ChoiceAnswer``."""

    probabilities: FloatArray
    mass: FloatArray
    unlisted: FloatArray

    @classmethod
    def of(cls, answers: Sequence[Sequence[str | None]], config: NumbersConfig) -> Weighed:
        """From the texts of answers, in the order of ``number_prompts``; () of an item of which nothing was asked."""
        shape = (len(answers), config.orders, len(config.questions))
        probabilities = np.full((*shape, len(config.letters)), np.nan)
        unlisted = np.full(shape, np.nan)
        for item, texts in enumerate(answers):
            for at, text in enumerate(texts):
                if text is not None and (answer := ChoiceAnswer.parse(text, config.letters)) is not None:
                    place = (item, *divmod(at, len(config.questions)))
                    probabilities[place], unlisted[place] = answer.probabilities, answer.unlisted
        mass = probabilities.sum(axis=-1)
        with np.errstate(invalid="ignore"):  # 0 of 0 is no answer
            shares = probabilities / mass[..., None]
        shares[:, 1:] = shares[:, 1:, :, ::-1]
        return cls(shares, mass, unlisted)

    @property
    def expected(self) -> FloatArray:
        """[n, orders, questions] means over the scale, whose ends are 0 and 1."""
        return np.asarray(self.probabilities @ self._scale)

    def numbers(self) -> FloatArray:
        """[n, questions] means over the scale and its orders; nan where an order has no answer."""
        return np.asarray(self.expected.mean(axis=1))

    def spreads(self) -> FloatArray:
        """[n, questions] standard deviations over the scale, of the mean of both orders' probabilities."""
        mean, scale = self.probabilities.mean(axis=1), self._scale
        return np.asarray(np.sqrt(np.maximum(mean @ scale**2 - (mean @ scale) ** 2, 0.0)))

    @property
    def _scale(self) -> FloatArray:
        return np.linspace(0.0, 1.0, self.probabilities.shape[-1])


def produce(inputs: ProducerInputs) -> Produced:
    """Item vectors of the space "item/numbers", standardised over the items that there were when it was made first."""
    spec, config = inputs.spec("numbers", "item"), inputs.config.numbers
    assert spec is not None
    asked = inputs.texts.numbers
    weighed = Weighed.of(asked.answers, config)
    raw = np.concatenate([weighed.numbers(), *([weighed.spreads()] if config.spread else [])], axis=1)
    known = np.asarray(~asked.absent & np.isfinite(raw).any(axis=1), np.bool_)
    components = {"llm": inputs.llm, "prompt": _form(inputs)}
    scaling = _scaling(inputs, components, raw, asked.absent, known)
    # what is not known is taken for the mean
    vectors = scaling.apply(np.where(np.isfinite(raw), raw, scaling.mean).astype(np.float32)) * known[:, None]
    named = space(spec, config.dtype, components | {"scaling": scaling.digest})
    return Produced(items=ItemVectors.of_texts(named, vectors.astype(np.float32), known))


def _scaling(
    inputs: ProducerInputs, components: dict[str, str], raw: FloatArray, absent: BoolArray, known: BoolArray
) -> Projection:
    """The standardisation, fitted once: numbers of later items are on the same scale."""
    path = projection_path(inputs.folder, components, raw.shape[1])
    if path.is_file():
        return Projection.load(path)
    inputs.need(absent)
    scaling = Projection.standardising(raw[known], "items with numbers")
    scaling.save(path)
    return scaling


def _form(inputs: ProducerInputs) -> str:
    """Changes whenever a question, or the words about an item, would."""
    vocabulary, config = inputs.vocabulary, inputs.config.numbers
    sample = [repr(prompt) for prompt in number_prompts(vocabulary, config, {})]
    return fingerprint([vocabulary.form, config.letters, sample])
