"""Optional: MARC's modular adjustment with the language model in it, by low-rank updates (LoRA, arXiv 2106.09685).

The updates are trained together with a compression and a matching network under the same loss, merged into the
weights, and saved as an ordinary model folder; a compression is then fitted to that folder's states as to any other's.
Meant for a GPU: each step runs the model forward and backward over some hundred texts.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field

from models.contract.schema import FrozenConfig
from offline.data.catalogue import DataError
from offline.data.files import write_folder
from offline.knowledge.inputs import ProducerInputs
from offline.knowledge.marc.pairs import Pairs, training_pairs
from offline.knowledge.marc.states import layer_of, mean_states, tokenised
from offline.knowledge.marc.train import CompressionConfig, TrainedModules, constrained_loss
from offline.llm.arithmetic import Precision
from offline.llm.in_process import load_model, quiet_transformers, repeatable
from offline.llm.weights import Weights


class AdaptationConfig(BaseModel):
    """Low-rank updates of all linear layers up to ``depth``, where the states are read."""

    model_config = FrozenConfig

    depth: Annotated[float, Field(gt=0, le=1)] = 0.5
    rank: Annotated[int, Field(ge=1)] = 8
    scale: Annotated[float, Field(gt=0)] = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    steps: Annotated[int, Field(ge=1)] = 200
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    max_tokens: Annotated[int, Field(ge=2)] = 256
    precision: Precision = "auto"


def adapt_model(inputs: ProducerInputs, target: Path, adaptation: AdaptationConfig) -> int:
    """Adapt the model whose states MARC reads, and save it as ``target``; returns the number of pairs it learns from.

    A user is told by the newest partition that closed before a pair, where the published vector is the mean of all: one
    text per pair is what a step can run. Reads nothing after the training period. NotFittedError if texts of it are
    still to come; DataError if ``target`` is there already, the package peft is not, or the model cannot be adapted.
    """
    if target.exists():
        raise DataError(f"{target} is there already")
    if importlib.util.find_spec("peft") is None:
        raise DataError("adapting needs the extra: pip install 'lorank[lora]'")
    inputs.need_training_texts()
    marc, versions, items = inputs.config.marc, inputs.texts.versions, inputs.texts.items
    pairs = training_pairs(
        inputs.log, inputs.trained_rows, inputs.schema.liked_above, versions.start, versions.since, items.known
    )
    if not len(pairs):
        raise DataError(
            "there is nothing to learn from: no interaction after a closed partition in the training period"
        )
    source = Weights.find(marc.model).checkpoint(inputs.checkpoints)
    target.parent.mkdir(parents=True, exist_ok=True)
    of_users = versions.texts if marc.titles else versions.tastes
    try:
        adapt(source, target, adaptation, marc.compression, pairs, of_users, items.texts)
    except ValueError as error:
        raise DataError(f"the model at {source} cannot be adapted: {error}") from error
    return len(pairs)


def adapted_model(model: Any, config: AdaptationConfig) -> Any:
    """``model`` with trainable updates in the layers that shape the states at ``config.depth``; the rest is frozen.

    ValueError for a model whose layers are not a list called "layers", as those of Llama, Qwen and Mistral are.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    below = layer_of(config.depth, int(model.config.num_hidden_layers))
    linear = [
        f"layers.{at}.{name}"
        for at, layer in enumerate(getattr(model, "layers", [])[:below])
        for name, module in layer.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    if not linear:
        raise ValueError(f"{type(model).__name__} has no list of layers to adapt")
    updates = LoraConfig(r=config.rank, lora_alpha=config.scale, lora_dropout=config.dropout, target_modules=linear)
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5 by a name that is going away
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return get_peft_model(model, updates)


def adapt(
    source: Path,
    target: Path,
    adaptation: AdaptationConfig,
    compression: CompressionConfig,
    pairs: Pairs,
    user_texts: Sequence[str],
    item_texts: Sequence[str],
) -> None:
    """Train on ``pairs`` (of the training period) and save the merged model as ``target``, whole or not at all.

    ``source`` is a transformers folder; texts are indexed by ``pairs``. Same seed, same machine, same weights.
    """
    with repeatable(compression.seed), quiet_transformers():
        tokenizer, model = load_model(source, adaptation.precision)
        model = adapted_model(model, adaptation)
        users, items = (tokenised(tokenizer, texts, adaptation.max_tokens) for texts in (user_texts, item_texts))
        _train(model, adaptation, compression, pairs, users, items)
        merged = model.merge_and_unload()

        def save(folder: Path) -> None:
            merged.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

        write_folder(target, save)


def _train(
    model: Any,
    adaptation: AdaptationConfig,
    compression: CompressionConfig,
    pairs: Pairs,
    users: list[list[int]],
    items: list[list[int]],
) -> None:
    import torch

    draw = np.random.default_rng(compression.seed)

    def states(tokens: list[list[int]], which: Any) -> Any:
        texts, back = np.unique(which, return_inverse=True)
        return mean_states(model, [tokens[at] for at in texts], [adaptation.depth])[0][torch.from_numpy(back)]

    def batch() -> Pairs:
        return pairs.at(draw.integers(len(pairs), size=compression.batch_size))

    model.eval()
    with torch.inference_mode():
        first = batch()
        sample = [states(users, first.version).cpu().numpy(), states(items, first.item).cpu().numpy()]
    size = len(users), len(items)
    modules = TrainedModules(compression, (compression.dim,), sample[0], sample[1], size).to(model.device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    updates = {"params": trained, "lr": adaptation.learning_rate}
    optimizer = torch.optim.AdamW([updates, *modules.groups(compression)])
    model.train()
    for _ in range(adaptation.steps):
        step = batch()
        loss = constrained_loss(compression, modules, states(users, step.version), states(items, step.item), step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
    model.eval()
