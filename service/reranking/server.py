"""One language model behind a vLLM server: how probable it thinks that a prompt is answered with yes.

Knows HTTP and vLLM's routes. Does not know requests, candidates or deadlines: a caller that is cancelled closes its
connection, and vLLM then drops what it was computing for it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import httpx2
import numpy as np

from models.contract.arrays import FloatArray
from models.contract.prompts import PromptParts
from service.admission import Elsewhere
from service.ranking.degraded import RerankError

_LOGPROBS = 20
"""Number of likeliest tokens that a completion lists; vLLM lists no more by default."""

_EXCERPT = 200

Labels = tuple[int, int]
"""Tokens of yes and no."""


class ModelServer:
    """Asks for probabilities of label tokens: by ``/generative_scoring``, or by completions if that route is absent."""

    def __init__(self, url: str, model: str, api_key: str | None = None, *, at_once: int) -> None:
        """``url`` is the server's, with or without ``/v1``; ``model`` is the name that it serves. More than ``at_once``
        requests for probabilities wait for their turn here."""
        self._root = url.rstrip("/").removesuffix("/v1")
        self._model = model
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        # Whoever calls has a deadline. A proxy of the environment is not meant for a server beside this one.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
        self._http = httpx2.AsyncClient(headers=headers, timeout=None, limits=limits, trust_env=False)
        self._scores = True
        self._turns = asyncio.Semaphore(at_once)

    async def close(self) -> None:
        await self._http.aclose()

    async def label_ids(self, end: str, yes: str, no: str) -> Labels:
        """The tokens that begin both answers after the ``end`` of a prompt, as the served tokenizer has them.
        RerankError if an answer changes the tokens before it, or if they are the same."""
        before = await self._tokens(end)
        first = []
        for word in (yes, no):
            whole = await self._tokens(end + word)
            if whole[: len(before)] != before or len(whole) == len(before):
                raise RerankError(f"{word!r} does not continue the prompt in tokens of its own")
            first.append(whole[len(before)])
        if first[0] == first[1]:
            raise RerankError(f"{yes!r} and {no!r} begin with the same token, {first[0]}")
        return first[0], first[1]

    async def probabilities(self, prompts: Sequence[PromptParts], labels: Labels) -> FloatArray:
        """Probabilities float32 [n] of yes against no as the next token of each prompt. RerankError if any is missing.

        Prompts with the same user block go in one request, so that the server computes the block once.
        """
        groups: dict[str, list[int]] = {}
        for at, prompt in enumerate(prompts):
            groups.setdefault(prompt.user, []).append(at)
        ask = self._scored if self._scores else self._completed

        async def in_turn(user: str, candidates: Sequence[str]) -> list[float]:
            async with self._turns:
                return await ask(user, candidates, labels)

        try:
            async with asyncio.TaskGroup() as together:
                asked = [
                    together.create_task(in_turn(user, [prompts[at].candidate for at in positions]))
                    for user, positions in groups.items()
                ]
        except ExceptionGroup as errors:
            first = errors.exceptions[0]
            if not isinstance(first, _NoRouteError):
                raise first from None
            self._scores = False
            return await self.probabilities(prompts, labels)
        probabilities = np.full(len(prompts), np.nan, np.float32)
        for positions, task in zip(groups.values(), asked, strict=True):
            probabilities[positions] = task.result()
        return probabilities

    async def _tokens(self, text: str) -> list[int]:
        body = {"model": self._model, "prompt": text, "add_special_tokens": False}
        tokens = (await self._post("/tokenize", body)).get("tokens")
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise RerankError(f"the server's tokens are {str(tokens)[:_EXCERPT]}")
        return tokens

    async def _scored(self, user: str, candidates: Sequence[str], labels: Labels) -> list[float]:
        """By the softmax over the two labels that vLLM computes."""
        body = {
            "model": self._model,
            "query": user,
            "items": list(candidates),
            "label_token_ids": list(labels),
            "apply_softmax": True,
        }
        answer = await self._post("/generative_scoring", body)
        try:
            scores = {int(entry["index"]): float(entry["score"]) for entry in answer["data"]}
            return _checked([scores[at] for at in range(len(candidates))])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise RerankError(f"the server's scores are not understood: {error!r}") from error

    async def _completed(self, user: str, candidates: Sequence[str], labels: Labels) -> list[float]:
        """By the likeliest next tokens. If a label is not among them there is no verdict, which is not a 0."""
        body = {
            "model": self._model,
            "prompt": [user + candidate for candidate in candidates],
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": _LOGPROBS,
            "return_tokens_as_token_ids": True,
        }
        answer = await self._post("/v1/completions", body)
        scores: dict[int, float] = {}
        try:
            for choice in answer["choices"]:
                likeliest = choice["logprobs"]["top_logprobs"][0]
                yes, no = (float(likeliest[f"token_id:{label}"]) for label in labels)
                scores[int(choice["index"])] = 1.0 / (1.0 + math.exp(min(no - yes, 700.0)))
            return _checked([scores[at] for at in range(len(candidates))])
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise RerankError(f"the server's completions give no verdict: {error!r}") from error

    async def _post(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            with Elsewhere():
                response = await self._http.post(f"{self._root}{route}", json=body)
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            raise RerankError(f"{self._root}{route}: {type(error).__name__} {error}") from error
        if response.status_code == 404 and route == "/generative_scoring" and "model" not in response.text:
            raise _NoRouteError(f"{self._root} has no {route}")
        if response.status_code != 200:
            said = " ".join(response.text.split())[:_EXCERPT]
            raise RerankError(f"{self._root}{route} answered {response.status_code}: {said}")
        try:
            answer = response.json()
        except (ValueError, RecursionError) as error:
            raise RerankError(f"{self._root}{route} answered something that is not JSON") from error
        if not isinstance(answer, dict):
            raise RerankError(f"{self._root}{route} answered something that is not an object")
        return answer


class _NoRouteError(RerankError):
    """The server does not score."""


def _checked(probabilities: list[float]) -> list[float]:
    if not all(0.0 <= probability <= 1.0 for probability in probabilities):  # also refuses NaN
        raise RerankError("an answer is no probability")
    return probabilities
