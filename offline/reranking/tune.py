"""ReiT: a causal language model learns to answer, from samples that show both recent and relevant events.

Low-rank updates of the attention's projections, cross entropy of the answer's first token alone. What comes out is an
ordinary model folder (the updates merged into the weights) and the updates by themselves; a server takes either.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.contract.arrays import IntArray
from models.contract.schema import fingerprint
from offline.config import TuningConfig
from offline.data.files import read_json, write_bytes, write_folder, write_json
from offline.llm.in_process import padded_batches, quiet_transformers, repeatable
from offline.progress import Progress
from offline.reranking.scoring import Labeller, last_states

MODEL, ADAPTER, DONE = "model", "adapter", "tuned.json"
"""Folders of the tuned model and its updates, and the file that says from what they were tuned; it is written last."""


def tune(
    labeller: Labeller, tokens: Sequence[list[int]], answers: IntArray, config: TuningConfig, seed: int, target: Path
) -> list[float]:
    """Tune on prompts ``tokens`` whose answers' first tokens are ``answers`` [n]; mean losses of tenths of the steps.

    The ``labeller`` is used up: its weights are changed. Writes ``target``/model and ``target``/adapter, each whole or
    not at all; under the same circumstances they stay as they are. The state of a run that was killed lies in
    ``target``/tuning.pt; the same call goes on from there, with the random numbers of the step it is at.
    """
    import torch

    circumstances = circumstances_of(labeller.id, tokens, answers, config, seed)
    target.mkdir(parents=True, exist_ok=True)
    if (target / DONE).is_file() and (target / MODEL).is_dir():
        done = read_json(target / DONE)
        if done["circumstances"] == circumstances:
            return list(done["losses"])
    with repeatable(seed), quiet_transformers():
        model = adapted(labeller, config)
        steps = list(batches(len(tokens), config, seed))
        state = State.new(target / "tuning.pt", circumstances, model, config, len(steps))
        losses = state.restore()
        model.train()
        with Progress("tune", len(steps), "steps", done=len(losses)) as progress:
            for number in range(len(losses), len(steps)):
                torch.manual_seed(seed * 1_000_003 + number)  # of the step, so that a run can go on at any of them
                batch = [tokens[row] for row in steps[number]]
                losses.append(_step(labeller, model, batch, answers[steps[number]], config, state.optimizer))
                state.schedule.step()
                progress.advance(note=f"loss {np.mean(losses[-20:]):.4f}")
                if (number + 1) % config.save_every == 0:
                    state.save(losses)
        model.eval()
        save_tuned(labeller, model, target)
    tenths = [float(part.mean()) for part in np.array_split(np.array(losses), min(10, len(losses)))]
    write_json(target / DONE, {"circumstances": circumstances, "losses": tenths})
    (target / "tuning.pt").unlink(missing_ok=True)
    return tenths


def circumstances_of(base: str, tokens: Sequence[list[int]], answers: IntArray, config: TuningConfig, seed: int) -> str:
    """SHA-256 of all that makes a tuned model: the ``base`` (a labeller's id) and the arguments of ``tune``."""
    document = [base, config.model_dump(mode="json"), seed, [list(part) for part in tokens], answers.tolist()]
    return fingerprint(document)


@dataclass(frozen=True, slots=True)
class State:
    """The optimizer and schedule of a run with the weights that it trains, and the file at ``path`` from which it goes
    on under the same circumstances."""

    path: Path
    circumstances: str
    trained: Sequence[Any]
    optimizer: Any
    schedule: Any

    @classmethod
    def new(cls, path: Path, circumstances: str, model: Any, config: TuningConfig, steps: int) -> State:
        """State before the first of so many steps."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer, schedule = optimizer_of(trained, config, steps)
        return cls(path, circumstances, trained, optimizer, schedule)

    def save(self, losses: list[float]) -> None:
        import torch

        document = {
            "circumstances": self.circumstances,
            "trained": [parameter.detach().cpu() for parameter in self.trained],
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "losses": losses,
        }
        buffer = io.BytesIO()
        torch.save(document, buffer)
        write_bytes(self.path, buffer.getvalue())

    def restore(self) -> list[float]:
        """Losses so far of a run under the same circumstances, whose state is put back; none if there was none."""
        import torch

        document = torch.load(self.path, weights_only=True) if self.path.is_file() else None
        if document is None or document["circumstances"] != self.circumstances:
            return []
        with torch.no_grad():
            for parameter, saved in zip(self.trained, document["trained"], strict=True):
                parameter.copy_(saved)
        self.optimizer.load_state_dict(document["optimizer"])
        self.schedule.load_state_dict(document["schedule"])
        return list(document["losses"])


def optimizer_of(trained: Sequence[Any], config: TuningConfig, steps: int) -> tuple[Any, Any]:
    """(optimizer, schedule) of so many steps for the weights that are ``trained``."""
    import torch

    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, _rate(steps, config.warm_up))


def save_tuned(labeller: Labeller, model: Any, target: Path) -> None:
    """Write the updates of ``model``, a model of peft, and the model into which they are merged, which uses it up."""
    write_folder(target / ADAPTER, model.save_pretrained)
    merged = model.merge_and_unload()

    def save(partial: Path) -> None:
        merged.save_pretrained(partial)
        labeller.tokenizer.save_pretrained(partial)

    write_folder(target / MODEL, save)


def adapted(labeller: Labeller, config: TuningConfig, adapter: Path | None = None) -> Any:
    """The labeller's model, changed in place, with updates that can be trained: new ones, or those in ``adapter``."""
    from peft import LoraConfig, PeftModel, get_peft_model

    model = labeller.model
    if model.device.type == "cpu":
        # The backward pass of fused attention takes a third of a step here (research/LOG.md, 2026-11-28).
        model.set_attn_implementation("eager")
    if config.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5 by a name that is going away
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        if adapter is not None:
            return PeftModel.from_pretrained(model, adapter, is_trainable=True, local_files_only=True)
        updates = LoraConfig(
            r=config.rank,
            lora_alpha=config.scale,
            lora_dropout=config.dropout,
            target_modules=list(config.modules),
            task_type="CAUSAL_LM",
        )
        return get_peft_model(model, updates)


def _step(
    labeller: Labeller, model: Any, tokens: Sequence[list[int]], answers: IntArray, config: TuningConfig, optimizer: Any
) -> float:
    """One update from a batch, in parts that fit into memory; its mean loss."""

    def losses(scores: Any, rows: list[int]) -> Any:
        return cross_entropy(scores, answers[rows])

    total = add_gradient(labeller, model, tokens, losses)
    descend(model, config, optimizer)
    return total


def cross_entropy(scores: Any, answers: IntArray) -> Any:
    """Cross entropies [n] of the tokens ``answers`` [n] under ``scores`` [n, V]."""
    import torch

    expected = torch.from_numpy(answers).to(scores.device)
    return torch.nn.functional.cross_entropy(scores, expected, reduction="none")


def add_gradient(
    labeller: Labeller,
    model: Any,
    tokens: Sequence[list[int]],
    losses: Callable[[Any, list[int]], Any],
    weight: float = 1.0,
) -> float:
    """The mean loss of prompts ``tokens``, whose gradient, ``weight`` times, is added to the model's weights.

    ``losses`` gives a loss [b] for the scores float32 [b, V] of the answer's first token of some rows of ``tokens``.
    """
    base = model.get_base_model()  # the updates lie inside of its layers
    total = 0.0
    for rows in padded_batches([len(part) for part in tokens], labeller.padded_tokens):
        states = last_states(base, [tokens[row] for row in rows])
        loss = losses(base.get_output_embeddings()(states).float(), rows).sum() / len(tokens)
        (weight * loss).backward()
        total += float(loss.detach())
    return total


def descend(model: Any, config: TuningConfig, optimizer: Any) -> None:
    """One step along the gradient that was added up, which is clipped first and nothing afterwards."""
    import torch

    torch.nn.utils.clip_grad_norm_([part for part in model.parameters() if part.requires_grad], config.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def batches(prompts: int, config: TuningConfig, seed: int) -> Iterator[IntArray]:
    """Rows of every step: each prompt once an epoch, in another order each time."""
    draw = np.random.default_rng([seed, 7])
    for _ in range(config.epochs):
        order = draw.permutation(prompts)
        yield from (order[at : at + config.batch_size] for at in range(0, prompts, config.batch_size))


def _rate(steps: int, warm_up: float) -> Any:
    """Share of the learning rate at a step: up in a line, then down in a line to nothing."""
    rising = max(1, round(steps * warm_up))

    def share(step: int) -> float:
        return min((step + 1) / rising, max(0.0, (steps - step) / max(1, steps - rising)))

    return share
