"""Scores by label tokens: the log-odds of yes against no at the first position of the answer, without generating.

    log-odds = s(yes) - s(no),  so that exp(s_yes) / (exp(s_yes) + exp(s_no)) = sigmoid(log-odds)      (ReLLa)

The last hidden state is multiplied with the two rows of the language head in float32: in bfloat16 the scores of a small
model are so coarse that many are equal. Scores are kept on disk by content, so that a killed run loses a pass at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.contract.arrays import FloatArray
from models.contract.prompts import PromptParts
from offline.data.catalogue import DataError
from offline.libraries import wait_without_spinning
from offline.llm.in_process import one_core_each, padded_batches, quiet_transformers
from offline.progress import Progress
from offline.reranking.framing import tokens_of
from offline.store import ArrayFile, addresses

_BATCHES_A_PASS = 16
"""Between two looks at the disk: about ten seconds on two cores."""


@dataclass(frozen=True, slots=True)
class Labeller:
    """A causal language model with its tokenizer, on the device it runs on. ``id`` names the weights and precision."""

    id: str
    tokenizer: Any
    model: Any
    padded_tokens: int

    @classmethod
    def load(cls, name: str, folder: Path, dtype: str, padded_tokens: int) -> Labeller:
        """The model in a transformers folder; on a GPU if torch finds one."""
        wait_without_spinning()
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, dtype=getattr(torch, dtype)
            ).eval()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(f"{name}/{dtype}", tokenizer, model.to(device), padded_tokens)

    def log_odds(
        self, prompts: Sequence[PromptParts], labels: tuple[int, int]
    ) -> Iterator[tuple[list[int], FloatArray]]:
        """(positions [b], log-odds float32 [b]) batch by batch, in an order that only the prompts decide."""
        tokens = tokens_of(self.tokenizer, prompts)
        head = self.head_rows(labels)

        def scored(rows: list[int]) -> FloatArray:
            states = last_states(self.model, [tokens[row] for row in rows]).float()
            log_odds: FloatArray = (states @ head[0] + head[1]).cpu().numpy()
            return log_odds

        cells = list(padded_batches([len(prompt) for prompt in tokens], self.padded_tokens))
        if self.model.device.type == "cpu":
            yield from zip(cells, one_core_each(scored, cells), strict=True)
        else:
            import torch

            for rows in cells:
                with torch.inference_mode():
                    log_odds = scored(rows)
                yield rows, log_odds

    def head_rows(self, labels: tuple[int, int]) -> tuple[Any, Any]:
        """Weight float32 [D] and bias of yes minus no. DataError if the model does more to its scores than multiply:
        caps and factors of single families would have to be repeated here."""
        import torch

        head = self.model.get_output_embeddings()
        yes, no = labels
        with torch.inference_mode():
            weight = head.weight[yes].float() - head.weight[no].float()
            bias = torch.zeros(()) if head.bias is None else head.bias[yes].float() - head.bias[no].float()
            ids = torch.tensor([[yes, no, yes]], device=self.model.device)
            whole = self.model(input_ids=ids, use_cache=False).logits[0, -1].float()
            expected = float(whole[yes] - whole[no])
            product = float(last_states(self.model, ids.tolist())[0].float() @ weight + bias)
        if abs(product - expected) > 0.05 * max(1.0, float(whole.abs().max())):
            raise DataError("the model's scores are not its last state times its language head; it cannot be asked so")
        return weight, bias.to(weight.device)


def last_states(model: Any, tokens: Sequence[list[int]]) -> Any:
    """State [B, D] of the last token of each prompt, as the language head reads it; keeps the gradient where there is
    one. Padding on the right needs no mask: behind a causal mask no token sees what comes after it."""
    import torch

    width = max(len(prompt) for prompt in tokens)
    ids = torch.zeros((len(tokens), width), dtype=torch.int64)
    for row, prompt in enumerate(tokens):
        ids[row, : len(prompt)] = torch.tensor(prompt, dtype=torch.int64)
    states = model.get_decoder()(input_ids=ids.to(model.device), use_cache=False).last_hidden_state
    last = torch.tensor([len(prompt) - 1 for prompt in tokens], device=states.device)
    return states[torch.arange(len(tokens), device=states.device), last]


def stored_log_odds(
    folder: Path, model: Labeller, labels: tuple[int, int], prompts: Sequence[PromptParts], title: str
) -> FloatArray:
    """Log-odds, float32 [n], of the prompts, in their order, from the files in ``folder``; asks the model about those
    that are not stored yet, so that a prompt is read once by a model for two answers. ``title`` is for people."""
    (name,) = addresses([f"{model.id} {labels}"])
    file = ArrayFile(folder / f"{name}.npz", "log_odds")
    stored = file.read()
    keys = addresses([str(prompt) for prompt in prompts])
    missing = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in stored}
    names, prompts = list(missing), list(missing.values())
    with Progress(title, len(prompts), "prompts", shown=bool(prompts)) as progress:
        for number, (rows, scores) in enumerate(model.log_odds(prompts, labels) if prompts else (), 1):
            stored.update(zip((names[row] for row in rows), scores, strict=True))
            progress.advance(len(rows))
            if number % _BATCHES_A_PASS == 0:
                stored = file.add(stored)
    if missing:
        stored = file.add(stored)
    return np.array([stored[key] for key in keys], np.float32)
