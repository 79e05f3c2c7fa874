"""The OpenAI-shaped back end against a real server: what it sends, and how it reads refusals."""

import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from offline.llm.choices import ChoiceAnswer
from offline.llm.openai import OpenAIBackend
from offline.llm.protocol import Completion, PermanentError, Prompt, TransientError, UnusableBackendError
from tests.offline.llm.chat_server import ChatServer, Fault, answer_to, garbage, hang, likeliest, reply, said, status

PROMPT = Prompt((("system", "Be brief."), ("user", "hi")), max_tokens=9)
SECRET = "sk-very-secret"


@pytest.fixture
async def backend(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OpenAIBackend]:
    monkeypatch.setenv("TEST_LLM_KEY", SECRET + "\n")
    backend = OpenAIBackend(server.base_url, "tiny", "TEST_LLM_KEY", timeout_seconds=20)
    yield backend
    await backend.close()


async def test_sends_the_question_and_reads_the_usage(server: ChatServer, backend: OpenAIBackend) -> None:
    assert await backend.complete([PROMPT]) == [Completion(answer_to("hi"), 2, 7)]
    assert server.bodies == [
        {
            "model": "tiny",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
            "max_tokens": 9,
            "temperature": 0.0,
        }
    ]
    assert server.headers[0]["authorization"] == f"Bearer {SECRET}"
    await backend.complete([Prompt(PROMPT.messages, 9, 0.7, 1.2)])
    assert server.bodies[1]["repetition_penalty"] == 1.2
    assert server.bodies[1]["temperature"] == 0.7
    assert len(server.connections) == 1, "the connection is reused"


DIGIT = Prompt((("user", "Good?"),), 1, choices=("1", "2", "3", "4", "5", "9"))


async def test_a_choice_is_read_from_the_list_of_likely_tokens(server: ChatServer, backend: OpenAIBackend) -> None:
    (completion,) = await backend.complete([DIGIT])
    body = server.bodies[0]
    assert (body["max_tokens"], body["temperature"], body["logprobs"], body["top_logprobs"]) == (1, 0.0, True, 20)
    assert "repetition_penalty" not in body
    answer = ChoiceAnswer.parse(completion.text, DIGIT.choices)
    assert answer is not None
    listed = {entry["token"]: math.exp(entry["logprob"]) for entry in likeliest("Good?")}
    assert answer.probabilities == pytest.approx([*(listed[digit] for digit in "12345"), 0.0], rel=1e-5)
    assert answer.unlisted == pytest.approx(min(listed.values()), rel=1e-5)


async def test_an_answer_without_a_first_token_weighs_nothing(server: ChatServer, backend: OpenAIBackend) -> None:
    server.fail("Good?", reply({"choices": [{"message": {"content": ""}, "logprobs": {"content": []}}]}))
    answer = ChoiceAnswer.parse((await backend.complete([DIGIT]))[0].text, DIGIT.choices)
    assert answer == ChoiceAnswer((0.0,) * 6, 1.0)


@pytest.mark.parametrize(
    "logprobs", [{}, {"logprobs": None}, {"logprobs": {"content": [{"token": "4", "logprob": 0, "top_logprobs": []}]}}]
)
async def test_a_server_that_lists_no_tokens_is_unusable_for_choices(
    server: ChatServer, backend: OpenAIBackend, logprobs: dict[str, object]
) -> None:
    server.fail("Good?", reply({"choices": [{"message": {"content": "4"}, **logprobs}]}))
    with pytest.raises(UnusableBackendError, match=r'take "numbers" out of feature_schema\.knowledge'):
        await backend.complete([DIGIT])


@pytest.mark.parametrize("content", [[{}], [{"top_logprobs": [{"token": "4"}]}], ["4"], "4"])
async def test_a_list_of_another_form_is_transient(server: ChatServer, backend: OpenAIBackend, content: object) -> None:
    server.fail("Good?", reply({"choices": [{"message": {"content": "4"}, "logprobs": {"content": content}}]}))
    with pytest.raises(TransientError, match="answered something else"):
        await backend.complete([DIGIT])


async def test_a_base_url_without_a_path_gets_the_version(server: ChatServer) -> None:
    for base_url in (server.base_url.removesuffix("/v1"), server.base_url + "/"):
        backend = OpenAIBackend(base_url, "tiny")
        assert (await backend.complete([PROMPT]))[0].text == answer_to("hi")
        await backend.close()
        await backend.close()
    assert all("authorization" not in headers for headers in server.headers)


@pytest.mark.parametrize("code", [408, 409, 429, 500, 502, 503, 529])
async def test_what_may_pass_is_transient(server: ChatServer, backend: OpenAIBackend, code: int) -> None:
    server.fail("hi", status(code, retry_after="2.5"))
    with pytest.raises(TransientError, match=f"answered {code}: .*told to fail") as caught:
        await backend.complete([PROMPT])
    assert caught.value.retry_after == 2.5
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("code", [307, 400, 413, 422])
async def test_what_this_prompt_will_never_get_is_permanent(
    server: ChatServer, backend: OpenAIBackend, code: int
) -> None:
    server.fail("hi", status(code))
    with pytest.raises(PermanentError, match=f"answered {code}") as caught:
        await backend.complete([PROMPT])
    assert not isinstance(caught.value, UnusableBackendError)


@pytest.mark.parametrize("code", [401, 403, 404])
async def test_what_no_prompt_will_get_is_unusable(server: ChatServer, backend: OpenAIBackend, code: int) -> None:
    server.fail("hi", status(code))
    with pytest.raises(UnusableBackendError, match=f"answered {code}") as caught:
        await backend.complete([PROMPT])
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "fault",
    [
        garbage,
        reply([]),
        reply({"choices": []}),
        reply({"choices": [{"message": {}}]}),
        reply({"choices": [{"message": {"content": 7}}]}),
        reply({"choices": [{"message": {"content": "x"}}], "usage": "many"}),
        said('{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 1e999}}'),
        said("[" * 100_000),
    ],
)
async def test_nonsense_is_transient(server: ChatServer, backend: OpenAIBackend, fault: Fault) -> None:
    server.fail("hi", fault)
    with pytest.raises(TransientError, match="answered something else"):
        await backend.complete([PROMPT])


async def test_answers_at_the_edge_of_the_format(server: ChatServer, backend: OpenAIBackend) -> None:
    # refused, or all tokens went into reasoning: it was paid, so it is stored as an answer and judged as one
    usage = {"prompt_tokens": 5, "completion_tokens": 8}
    server.fail("hi", reply({"choices": [{"message": {"content": None}}], "usage": usage}))
    assert await backend.complete([PROMPT]) == [Completion("", 5, 8)]
    server.fail("hi", reply({"choices": [{"message": {"content": ""}}]}))
    assert await backend.complete([PROMPT]) == [Completion("", 0, 0)]


async def test_half_a_character_does_not_reach_the_cache(server: ChatServer, backend: OpenAIBackend) -> None:
    from fastapi import Response

    async def surrogate(server: ChatServer) -> Response:
        return Response(b'{"choices": [{"message": {"content": "a\\ud800b"}}]}', media_type="application/json")

    server.fail("hi", surrogate)
    assert (await backend.complete([PROMPT]))[0].text == "a?b"


async def test_silence_and_absence_are_transient(server: ChatServer) -> None:
    impatient = OpenAIBackend(server.base_url, "tiny", timeout_seconds=0.2)
    server.fail("hi", hang)
    with pytest.raises(TransientError, match=r"within 0\.2 s"):
        await impatient.complete([PROMPT])
    await impatient.close()
    absent = OpenAIBackend("http://127.0.0.1:9/v1", "tiny")
    with pytest.raises(TransientError, match="ConnectError"):
        await absent.complete([PROMPT])
    await absent.close()


@pytest.mark.parametrize("key", ["", "  \n", "ключ", "sk-a\nb"])
async def test_a_missing_or_unusable_key_is_named_and_not_shown(
    server: ChatServer, backend: OpenAIBackend, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("TEST_LLM_KEY", key)
    with pytest.raises(UnusableBackendError, match="TEST_LLM_KEY") as caught:
        await backend.complete([PROMPT])
    assert not key.strip() or key not in str(caught.value)
    assert server.bodies == []


@pytest.mark.parametrize(("value", "expected"), [("-3", 0.0), ("soon", None), ("", None)])
async def test_retry_after_is_read_with_care(
    server: ChatServer, backend: OpenAIBackend, value: str, expected: float | None
) -> None:
    server.fail("hi", status(429, retry_after=value))
    with pytest.raises(TransientError) as caught:
        await backend.complete([PROMPT])
    assert caught.value.retry_after == expected


async def test_retry_after_may_be_a_date(server: ChatServer, backend: OpenAIBackend) -> None:
    server.fail("hi", status(503, retry_after=format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)))
    with pytest.raises(TransientError) as caught:
        await backend.complete([PROMPT])
    assert caught.value.retry_after is not None
    assert 3000 < caught.value.retry_after <= 3600
