"""A language model in this process: the packaged SmolLM2, or any local GGUF file or transformers checkpoint.

torch and transformers are imported on the first prompt, so a fully cached run never pays for them.
"""

import asyncio
import hashlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from offline.llm.arithmetic import Precision
from offline.llm.choices import ChoiceAnswer
from offline.llm.in_process import load_model, quiet_transformers
from offline.llm.protocol import Completion, PermanentError, Prompt, TransientError, UnusableBackendError
from offline.llm.weights import Weights

PADDED_TOKENS = 2**16
"""Tokens of one generation, prompts with padding and answers together; a batch that has more is generated in parts. The
packaged model remembers a token in 46 kB of float32 or 23 kB of bfloat16: 3 GB or 1.5 GB at most."""


class LocalBackend:
    """Generates with transformers, or weighs choices, one batch at a time, in a thread of its own.

    `checkpoints` is the folder for converted weights, `model` a GGUF file or checkpoint folder (None: the packaged
    SmolLM2-135M-Instruct). The same batch gives the same text, also at a temperature above 0, where the prompts are the
    seed. Another batch, or a machine with another arithmetic, may differ in a word, because the last bits of a rounding
    do; the cache keeps answers stable. `precision` is the arithmetic (arithmetic.py).
    """

    def __init__(
        self, checkpoints: Path, model: Path | None = None, batch_size: int = 64, precision: Precision = "auto"
    ) -> None:
        self._checkpoints = checkpoints
        self._weights = Weights.find(model)
        self.model_id = self._weights.name  # a model of the user's carries a hash of its content
        self.batch_size = (
            batch_size  # prompts generated together; a larger one is faster per token and takes more memory
        )
        self._precision = precision
        self._generator: _Generator | None = None
        self._closing = threading.Event()
        # one thread: two generations at once would only share the same cores and double the memory
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="local-llm")

    async def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """Generate. Raises PermanentError when a prompt and its answer exceed the model's context."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._complete, list(prompts))

    async def close(self) -> None:
        """End a running generation, whose answers are lost, and drop the model."""
        self._closing.set()
        await asyncio.to_thread(self._thread.shutdown, wait=True, cancel_futures=True)
        self._generator = None

    def _complete(self, prompts: list[Prompt]) -> list[Completion]:
        if self._generator is None:
            checkpoint = self._weights.checkpoint(self._checkpoints)
            self._generator = _Generator(checkpoint, self._precision, self._closing)
        completions: list[Completion] = []
        for _, group in groupby(
            prompts, key=lambda prompt: (prompt.parameters, prompt.choices and prompt.messages[:-1])
        ):
            alike = list(group)
            completions += (self._generator.choose if alike[0].choices else self._generator.generate)(alike)
        return completions


class _Generator:
    """The loaded model and tokenizer. Once ``closing`` is set, a generation ends with a TransientError, at the next
    layer of its next token."""

    def __init__(self, checkpoint: Path, precision: Precision, closing: threading.Event) -> None:
        try:
            self._tokenizer, self._model = load_model(checkpoint, precision, causal=True)
        except (OSError, ValueError) as error:
            raise UnusableBackendError(f"{checkpoint} does not load: {error}") from error
        if self._tokenizer.chat_template is None:
            raise UnusableBackendError(f"the tokenizer of {checkpoint} has no chat template: not an instruction model")
        self._tokenizer.padding_side = "left"
        self._device = self._model.device
        stop = self._model.generation_config.eos_token_id
        stops = [stop] if isinstance(stop, int) else list(stop or [])
        if self._tokenizer.eos_token_id is not None and self._tokenizer.eos_token_id not in stops:
            stops.append(self._tokenizer.eos_token_id)
        if not stops:
            raise UnusableBackendError(f"{checkpoint} names no token that ends an answer")
        self._stops: list[int] = stops
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token_id = stops[0]
        _end_when(closing, self._model)

    def generate(self, prompts: list[Prompt]) -> list[Completion]:
        """Answer prompts of equal parameters, in one batch or, beyond ``PADDED_TOKENS``, in parts of it."""
        import torch

        # the template already spells the special tokens
        inputs = self._tokenizer(self._texts(prompts), padding=True, add_special_tokens=False, return_tensors="pt").to(
            self._device
        )
        width, more = int(inputs["input_ids"].shape[1]), prompts[0].max_tokens
        self._check_context(width, more)
        if len(prompts) > 1 and len(prompts) * (width + more) > PADDED_TOKENS:
            half = len(prompts) // 2
            return self.generate(prompts[:half]) + self.generate(prompts[half:])
        with torch.inference_mode(), quiet_transformers(), self._seeded(prompts):
            output = self._model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                generation_config=self._generation(prompts[0]),
            )
        prompt_tokens: list[int] = inputs["attention_mask"].sum(dim=1).tolist()
        completions = []
        for tokens, counted in zip(output[:, width:].tolist(), prompt_tokens, strict=True):
            # a row that ended early is padded to the longest of its batch; the padding was never generated
            end = next((at for at, token in enumerate(tokens) if token in self._stops), len(tokens))
            text = self._tokenizer.decode(tokens[: end + 1], skip_special_tokens=True)
            completions.append(Completion(text, counted, len(tokens[: end + 1])))
        return completions

    def choose(self, prompts: list[Prompt]) -> list[Completion]:
        """Weigh the choices of prompts that differ in their last message alone. What their tokens begin with alike is
        computed once; `prompt_tokens` count it in each, as servers do."""
        import torch

        choices = prompts[0].choices
        texts = self._texts(prompts)
        rows: list[list[int]] = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        tokens = self._choice_tokens(texts[0], rows[0], choices)
        self._check_context(max(map(len, rows)), 1)
        alike = min(_alike(rows), min(map(len, rows)) - 1)  # each has a token of its own, whose successor is asked for
        completions: list[Completion] = []
        most = max(1, PADDED_TOKENS // max(map(len, rows)))
        with torch.inference_mode(), quiet_transformers():
            for start in range(0, len(rows), most):
                part = rows[start : start + most]
                weights = self._next_tokens(part, alike)[:, tokens].tolist()
                completions += [
                    Completion(ChoiceAnswer(tuple(of_row)).text(choices), len(row), 1)
                    for of_row, row in zip(weights, part, strict=True)
                ]
        return completions

    def _next_tokens(self, rows: list[list[int]], alike: int) -> Any:
        """Probabilities [n, vocabulary] of the tokens after each row; all begin with the same ``alike`` tokens."""
        import torch

        past = None
        if alike:
            past = self._model(torch.tensor([rows[0][:alike]], device=self._device), use_cache=True, logits_to_keep=1)
            past = past.past_key_values
            past.batch_repeat_interleave(len(rows))
        width = max(map(len, rows)) - alike
        ids = torch.full((len(rows), width), self._tokenizer.pad_token_id)
        seen = torch.zeros((len(rows), alike + width), dtype=torch.long)
        seen[:, :alike] = 1
        for at, row in enumerate(rows):
            ids[at, width - len(row) + alike :] = torch.tensor(row[alike:])
            seen[at, alike + width - len(row) + alike :] = 1
        positions = (seen.cumsum(dim=1) - 1).clamp(min=0)[:, alike:]
        output = self._model(
            ids.to(self._device),
            attention_mask=seen.to(self._device),
            position_ids=positions.to(self._device),
            past_key_values=past,
            use_cache=past is not None,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float().softmax(dim=-1)

    def _choice_tokens(self, text: str, before: list[int], choices: tuple[str, ...]) -> list[int]:
        """The token that each choice adds to a prompt, or begins with. UnusableBackendError if two are the same."""
        tokens = []
        for choice in choices:
            whole: list[int] = self._tokenizer(text + choice, add_special_tokens=False)["input_ids"]
            tokens.append(whole[len(before)] if whole[: len(before)] == before and len(whole) > len(before) else -1)
        if -1 in tokens or len(set(tokens)) < len(tokens):
            raise UnusableBackendError(f"the model's tokenizer does not tell the answers {', '.join(choices)} apart")
        return tokens

    def _texts(self, prompts: list[Prompt]) -> list[str]:
        chats = [[{"role": role, "content": text} for role, text in prompt.messages] for prompt in prompts]
        texts: list[str] = self._tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        return texts

    def _check_context(self, width: int, more: int) -> None:
        limit = getattr(self._model.config, "max_position_embeddings", None)
        if limit is not None and width + more > limit:
            raise PermanentError(f"a prompt of {width} tokens and {more} new ones exceed the context of {limit}")

    @contextmanager
    def _seeded(self, prompts: list[Prompt]) -> Iterator[None]:
        """Draw from the prompts' own random numbers, and leave those of the process as they are."""
        import torch

        devices = [self._device.index or 0] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            digest = hashlib.sha256(repr(prompts).encode()).digest()
            torch.manual_seed(int.from_bytes(digest[:7]))  # torch takes less than 64 bits
            yield

    def _generation(self, prompt: Prompt) -> Any:
        from transformers import GenerationConfig

        return GenerationConfig(
            max_new_tokens=prompt.max_tokens,
            do_sample=prompt.temperature > 0,
            temperature=prompt.temperature or None,  # transformers refuses 0, which greedy search ignores anyway
            repetition_penalty=prompt.repetition_penalty,
            eos_token_id=self._stops,
            pad_token_id=self._tokenizer.pad_token_id,
        )


def _alike(rows: Sequence[list[int]]) -> int:
    """How many tokens all rows begin with alike."""
    shortest, longest = min(rows), max(rows)  # in the order of dictionaries: the two that differ first
    return next((at for at, (a, b) in enumerate(zip(shortest, longest, strict=False)) if a != b), len(shortest))


def _end_when(closing: threading.Event, model: Any) -> None:
    """Let the model's layers look at ``closing`` before they compute: all prompts of a large batch in one layer take
    seconds on a CPU, in all of them minutes."""
    import torch

    def look(*_: object) -> None:
        if closing.is_set():
            raise TransientError("stopped in the middle of a generation")

    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList):
            for layer in module:
                layer.register_forward_pre_hook(look)
