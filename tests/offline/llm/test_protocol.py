"""Prompts nobody could answer, and the errors of a back end."""

import pytest

from offline.llm.protocol import Prompt, TransientError


@pytest.mark.parametrize(
    ("messages", "settings"),
    [
        ((), {}),
        ((("robot", "hi"),), {}),
        ((("user", "half a character \ud800"),), {}),
        ((("user", "hi"),), {"max_tokens": 0}),
        ((("user", "hi"),), {"temperature": -0.1}),
        ((("user", "hi"),), {"temperature": float("nan")}),
        ((("user", "hi"),), {"repetition_penalty": 0.0}),
    ],
)
def test_a_prompt_nobody_could_answer_is_refused_before_it_costs(
    messages: tuple[tuple[str, str], ...], settings: dict[str, float]
) -> None:
    values = {"max_tokens": 8, "temperature": 0.0, "repetition_penalty": 1.0} | settings
    with pytest.raises(ValueError, match=r"message|role|max_tokens|temperature|repetition"):
        Prompt(messages, int(values["max_tokens"]), values["temperature"], values["repetition_penalty"])


def test_a_transient_error_carries_the_servers_wish() -> None:
    assert TransientError("later", 3.0).retry_after == 3.0
    assert TransientError("later").retry_after is None
