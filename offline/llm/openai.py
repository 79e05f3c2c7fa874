"""Any server that speaks the OpenAI chat protocol, vLLM first."""

import asyncio
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2

from models.contract.leaving import is_on_this_machine
from offline.data.catalogue import DataLine
from offline.llm.choices import ChoiceAnswer
from offline.llm.protocol import Completion, PermanentError, Prompt, TransientError, UnusableBackendError

_TRANSIENT_STATUS = frozenset({408, 409, 425, 429})
_HOPELESS_STATUS = frozenset({401, 402, 403, 404, 405})  # true of every prompt: key, credit, permission, model, path
_LOOK_SECONDS = 5.0
_LISTED = 20  # likeliest tokens that are asked for: the most that the protocol allows and that vLLM lists by default
_EXCERPT = 300  # characters of a server's error that go into ours


class OpenAIBackend:
    """One model behind `{base_url}/chat/completions`.

    `base_url` ends with the version (`http://host:8000/v1`); one without any path gets `/v1`. The key is read from
    the environment variable named `api_key_env` at the first call, so that a fully cached run needs none.
    `timeout_seconds` bounds a whole call. A server that reports no usage is accounted with 0 tokens. A call carries the
    prompt's messages and parameters, and nothing about whose they are. A prompt with choices is one token, with the
    likeliest alternatives to it (`top_logprobs`); a server that lists none is unusable for it. Proxies of the
    environment are used for servers on other machines alone: on the way to one on this machine they would take prompts
    elsewhere.
    """

    batch_size = 1

    def __init__(
        self, base_url: str, model: str, api_key_env: str | None = None, timeout_seconds: float = 120.0
    ) -> None:
        self._url = f"{_versioned(base_url)}/chat/completions"
        self.model_id = model  # without the address, because moving a server must not mean paying again
        self._api_key_env = api_key_env
        self._timeout_seconds = timeout_seconds
        self._client: httpx2.AsyncClient | None = None

    async def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """Answer each prompt with a call of its own (the client sends one at a time)."""
        return [await self._complete_one(prompt) for prompt in prompts]

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _complete_one(self, prompt: Prompt) -> Completion:
        client, key = self._open_client(), self._api_key()
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        try:
            async with asyncio.timeout(self._timeout_seconds):
                response = await client.post(self._url, json=self._body(prompt), headers=headers)
        except TimeoutError as error:
            raise TransientError(f"no answer from {self._url} within {self._timeout_seconds:g} s") from error
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise UnusableBackendError(f"{self._url}: {error}") from error
        except httpx2.RequestError as error:
            raise TransientError(f"{self._url}: {type(error).__name__} {error}") from error
        if response.status_code != 200:
            raise self._failure(response)
        try:
            return _parse(response.json(), prompt.choices)
        except (ValueError, KeyError, IndexError, TypeError, OverflowError, RecursionError) as error:
            # a proxy's error page or a half-started server answers 200 with something else
            answered = f"{self._url} answered something else"
            raise TransientError(DataLine(f"{answered}: {self._excerpt(response)}", answered)) from error
        except _NoListError as error:
            raise UnusableBackendError(
                f"{self._url} lists no probabilities of tokens (top_logprobs), of which numbers are made: take "
                '"numbers" out of feature_schema.knowledge, or use a server that lists them, as vLLM and llama.cpp do'
            ) from error

    def _open_client(self) -> httpx2.AsyncClient:
        # made inside the running event loop; the number of connections is bounded by the caller's concurrency
        if self._client is None:
            limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
            proxies = not is_on_this_machine(self._url)
            self._client = httpx2.AsyncClient(timeout=self._timeout_seconds, limits=limits, trust_env=proxies)
        return self._client

    def _body(self, prompt: Prompt) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model_id,
            "messages": [{"role": role, "content": text} for role, text in prompt.messages],
            "max_tokens": prompt.max_tokens,
            "temperature": prompt.temperature,
        }
        if prompt.repetition_penalty != 1.0:
            body["repetition_penalty"] = prompt.repetition_penalty  # a vLLM extension; others reject unknown fields
        if prompt.choices:
            body |= {"logprobs": True, "top_logprobs": _LISTED}
        return body

    def _api_key(self) -> str | None:
        if self._api_key_env is None:
            return None
        key = os.environ.get(self._api_key_env, "").strip()  # `$(cat key-file)` and editors leave line ends
        if not key:
            raise UnusableBackendError(f"the environment variable {self._api_key_env} with the API key is not set")
        if not (key.isascii() and key.isprintable()):
            # said here because the HTTP library would quote the whole key in its complaint
            raise UnusableBackendError(f"the API key in {self._api_key_env} holds characters no HTTP header can carry")
        return key

    def _failure(self, response: httpx2.Response) -> TransientError | PermanentError:
        status = response.status_code
        answered = f"{self._url} answered {status}"
        message = DataLine(f"{answered}: {self._excerpt(response)}", answered)  # some servers repeat the prompt
        if status in _TRANSIENT_STATUS or status >= 500:
            return TransientError(message, _retry_after(response.headers.get("retry-after")))
        if status in _HOPELESS_STATUS:
            return UnusableBackendError(message)
        return PermanentError(message)

    def _excerpt(self, response: httpx2.Response) -> str:
        text = " ".join(response.text.split())
        key = self._api_key()
        # some servers repeat the key they refuse, and this text ends in logs
        return (text.replace(key, "***") if key else text)[:_EXCERPT]


def server_fault(base_url: str, model: str, api_key_env: str | None) -> str:
    """What is wrong with a server that should serve ``model``, by its list of models; "" for nothing, also of a server
    that has no such list. Waits some seconds at most."""
    url = f"{_versioned(base_url)}/models"
    key = os.environ.get(api_key_env, "").strip() if api_key_env else ""
    headers = {"Authorization": f"Bearer {key}"} if key.isascii() and key.isprintable() and key else {}
    try:
        response = httpx2.get(url, headers=headers, timeout=_LOOK_SECONDS, trust_env=not is_on_this_machine(url))
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        return f"{url} does not answer: {type(error).__name__} {error}".rstrip()
    if response.status_code in (401, 403):
        return f"{url} refuses the key ({response.status_code})"
    try:
        served = [str(entry["id"]) for entry in response.json()["data"]]
    except (ValueError, KeyError, TypeError):
        return ""
    return "" if model in served else f"{url} does not serve {model!r}; it serves {', '.join(served) or 'nothing'}"


def _versioned(base_url: str) -> str:
    base = base_url.rstrip("/")
    return base if urlsplit(base).path else f"{base}/v1"


class _NoListError(Exception):
    """An answer without the probabilities that were asked for."""


def _parse(reply: Any, choices: Sequence[str]) -> Completion:
    text = _choice_text(reply["choices"][0], choices) if choices else reply["choices"][0]["message"]["content"]
    if text is None:
        text = ""  # refused, or all tokens went into reasoning: paid all the same, so it is an answer to be stored
    if not isinstance(text, str):
        raise TypeError("content is not text")
    usage = reply.get("usage") or {}
    if not isinstance(usage, dict):
        raise TypeError("usage is not an object")
    # JSON escapes can spell half a character (a lone surrogate), which no file or database takes
    readable = text.encode("utf-8", "replace").decode()
    return Completion(readable, int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))


def _choice_text(answer: Any, choices: Sequence[str]) -> str:
    """The text of a choice among the listed likeliest first tokens. A token may be listed twice, by its bytes."""
    if not (answer.get("logprobs") or {}).get("content"):
        # an answer that ends before its first token may list nothing; a server that cannot list says so with null
        if answer.get("logprobs") is None or answer["message"]["content"]:
            raise _NoListError
        return ChoiceAnswer((0.0,) * len(choices), 1.0).text(choices)
    listed: dict[str, float] = {}
    for entry in answer["logprobs"]["content"][0]["top_logprobs"]:
        token = str(entry["token"])
        listed[token] = listed.get(token, 0.0) + math.exp(min(0.0, float(entry["logprob"])))
    if not listed:
        raise _NoListError
    return ChoiceAnswer.of_listed(listed, choices).text(choices)


def _retry_after(value: str | None) -> float | None:
    """Read a Retry-After header, seconds or a date; what cannot be read counts as absent."""
    if value is None:
        return None
    with suppress(ValueError):
        return max(0.0, float(value))
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
