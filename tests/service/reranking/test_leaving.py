"""What the service's prompts may carry to a model server, and that nothing is sent to one before it is listed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.contract import leaving
from service.app import create_app
from service.settings import Settings, SettingsError
from tests.service.conftest import eventually, running
from tests.service.reranking.conftest import PROMPT, written
from tests.service.reranking.model_server import ModelServerDouble
from tests.service.reranking.test_service import state_is
from tests.service.tiny import Publisher

COLUMNS = ("title", "plot")
CARRIED = ["history", "items.plot", "items.title", "users.gender"]


@pytest.fixture
def elsewhere(
    settings: Settings, double: ModelServerDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Of a service whose model server counts as another machine's."""
    monkeypatch.setattr(leaving, "is_on_this_machine", lambda url: False)
    folder = written(tmp_path / "reranker", item_columns=COLUMNS)
    return settings.model_copy(update={"reranker": folder, "reranker_url": double.url})


def test_a_server_elsewhere_is_told_nothing_before_a_list_says_what(
    elsewhere: Settings, double: ModelServerDouble
) -> None:
    with pytest.raises(SettingsError) as raised:
        create_app(elsewhere)
    assert str(raised.value) == (
        f"LORANK_RERANKER_MAY_LEAVE: prompts to {double.url} (another machine) would carry {', '.join(CARRIED)}, which "
        f"it does not list, so none is sent: set it to {','.join(CARRIED)} to let them (docs/security.md), or use a "
        "server on this machine"
    )
    with pytest.raises(SettingsError, match=r"would carry users\.gender, which it does not list"):
        create_app(elsewhere.model_copy(update={"reranker_may_leave": tuple(CARRIED[:3])}))
    assert double.requests == []


def test_a_reranker_that_does_not_say_what_it_tells_is_not_asked_elsewhere(elsewhere: Settings, tmp_path: Path) -> None:
    folder = written(tmp_path / "older")
    with pytest.raises(SettingsError, match=r"nothing tells which fields .* run `python -m offline tune-reranker`"):
        create_app(elsewhere.model_copy(update={"reranker": folder, "reranker_may_leave": tuple(CARRIED)}))


async def test_prompts_carry_what_is_listed_and_no_id(
    elsewhere: Settings, publisher: Publisher, double: ModelServerDouble
) -> None:
    publisher.publish()
    async with running(elsewhere.model_copy(update={"reranker_may_leave": tuple(CARRIED)})) as service:
        await eventually(lambda: state_is(service, "on"))
        double.requests.clear()
        answer = await service.rank(rerank="force", request_id="requestidzq")
        assert answer["degraded"] == []
        status = (await service.status())["reranker"]
        assert status["prompts"] == {"go_to": "another machine", "carry": CARRIED}
    (route, body), *others = double.requests
    assert (route, others) == ("/generative_scoring", [])
    assert set(body) == {"model", "query", "items", "label_token_ids", "apply_softmax"}
    sent = json.dumps(body)
    assert "requestidzq" not in sent
    assert '"u1"' not in sent
    assert PROMPT.heading in sent or PROMPT.nothing in sent


def test_the_setting_is_a_list_with_commas() -> None:
    environment = {"LORANK_RERANKER_MAY_LEAVE": "history, items.title,,users.age"}
    assert Settings.from_environment(environment).reranker_may_leave == ("history", "items.title", "users.age")
    with pytest.raises(SettingsError, match="LORANK_RERANKER_MAY_LEAVE"):
        Settings.from_environment({"LORANK_RERANKER_MAY_LEAVE": "title"})
