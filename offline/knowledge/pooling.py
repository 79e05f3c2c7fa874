"""What a text encoder says of itself: the files that sentence-transformers writes beside a model's weights, and how
they turn hidden states into one vector. Without such files a folder is a model of transformers, whose states are
averaged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

Pooling = Literal["mean", "cls", "max", "weightedmean", "lasttoken"]
"""Over a text's tokens: mean, first one, greatest numbers, a mean that weighs later tokens more, last one."""

_POOLING: Final[Mapping[str, Pooling]] = {
    "mean": "mean",
    "mean_sqrt_len": "mean",  # another length of the same direction, and all vectors get length 1
    "cls": "cls",
    "max": "max",
    "weightedmean": "weightedmean",
    "lasttoken": "lasttoken",
}
"""By their names in a configuration of sentence-transformers."""

_READ: Final = ("Transformer", "Pooling", "Normalize")
"""Modules of sentence-transformers that are understood here; all vectors are brought to unit length."""


class EncoderError(RuntimeError):
    """The encoder's weights cannot be found, or its folder asks for something that is not done here."""


@dataclass(frozen=True, slots=True)
class EncoderFolder:
    """A folder of an encoder: the ``weights`` in it, the ``pooling``, the longest text in tokens (None: no bound of its
    own), and the ``prompt`` that the model wants before each text ("" if none)."""

    weights: Path
    pooling: Pooling = "mean"
    max_tokens: int | None = None
    prompt: str = ""

    @classmethod
    def read(cls, folder: Path) -> EncoderFolder:
        """What a folder says of itself. EncoderError if it is damaged or names a module that is not understood."""
        try:
            return cls._read(folder)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise EncoderError(f"the text encoder in {folder} cannot be read: {error!r}") from error

    @classmethod
    def _read(cls, folder: Path) -> EncoderFolder:
        if not (folder / "modules.json").is_file():
            return cls(folder)
        paths = {module["type"].rsplit(".", 1)[-1]: folder / module["path"] for module in _json(folder, "modules.json")}
        if unread := sorted(paths.keys() - set(_READ)):
            raise EncoderError(
                f"the text encoder in {folder} has modules that are not computed here ({', '.join(unread)}); choose "
                f"one that has no others than {', '.join(_READ)}"
            )
        weights = paths["Transformer"]
        about_weights, about_texts = (
            _json(place, name) if (place / name).is_file() else {}
            for place, name in ((weights, "sentence_bert_config.json"), (folder, "config_sentence_transformers.json"))
        )
        prompt = about_texts.get("prompts", {}).get(about_texts.get("default_prompt_name"), "")
        pooling = _pooling(_json(paths["Pooling"], "config.json"), folder) if "Pooling" in paths else "mean"
        return cls(weights, pooling, about_weights.get("max_seq_length"), prompt)


def _json(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def _pooling(settings: Mapping[str, Any], folder: Path) -> Pooling:
    """The pooling that is chosen, by its name or by the switch of its name. EncoderError unless it is a single one that
    is known."""
    named = settings.get("pooling_mode")
    chosen = [named] if named is not None else [name for name, value in settings.items() if value is True]
    short = [str(name).removeprefix("pooling_mode_").split("_token")[0] for name in chosen if name != "include_prompt"]
    if len(short) != 1 or short[0] not in _POOLING:
        raise EncoderError(
            f"the text encoder in {folder} pools in a way that is not computed here: {', '.join(short) or 'none'}"
        )
    return _POOLING[short[0]]


def pooled(states: Any, mask: Any, pooling: Pooling) -> Any:
    """float32 [n, width] of hidden states [n, tokens, width], of which those with ``mask`` [n, tokens] 1 are of the
    text; padding may stand on either side."""
    import torch

    states, weight = states.float(), mask.unsqueeze(-1).float()
    rows, last = torch.arange(len(states)), mask.shape[1] - 1
    match pooling:
        case "mean":
            return (states * weight).sum(1) / weight.sum(1).clamp(min=1.0)
        case "weightedmean":
            weights = weight * torch.arange(1, last + 2).float().reshape(1, -1, 1)
            return (states * weights).sum(1) / weights.sum(1).clamp(min=1.0)
        case "max":
            return states.masked_fill(weight == 0, -torch.inf).amax(1)
        case "cls":
            return states[rows, mask.argmax(1)]
        case "lasttoken":
            return states[rows, last - mask.flip(1).argmax(1)]
