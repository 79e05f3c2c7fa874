"""What leaves for a language model's server: every byte of every request of a run, and that nothing is sent before the
configuration lists what may be."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from models.contract import leaving
from models.contract.schema import KnowledgeSpec
from offline.cli.call import EXPECTED
from offline.data.catalogue import DataError
from offline.import_texts import import_texts
from offline.jobs.dry_run import dry_run
from offline.jobs.refusals import of_everything, of_settings
from offline.jobs.runs import Run
from offline.llm.config import LLMConfig, open_backend
from offline.llm.openai import OpenAIBackend
from offline.llm.protocol import MayNotLeaveError, Prompt
from offline.llm.session import open_session
from tests.offline.engine.test_ray import FITTING
from tests.offline.pipeline import Pipeline, answer_to, kinds, write_csv

MAY_LEAVE = ["history", "items.title"]
WORDS = {
    "user id": b"useridzq", "item id": b"itemidzq", "title": b"Titlezq", "director": b"Directorzq", "genre": b"Genrezq",
    "year": b"71", "age": b"83", "occupation": b"Occupationzq", "imported": b"Importedzq",
}  # fmt: skip
"""What stands in each field of the data below and nowhere else: a word, or the first digits of a long number."""


class Recorder:
    """A server of OpenAI's chat API that keeps every byte it reads."""

    def __init__(self) -> None:
        self.read: list[bytes] = []
        self.prompts: list[str] = []
        self.answer: Callable[[str], str] = answer_to
        self.url = ""

    @property
    def bytes(self) -> bytes:
        return b"".join(self.read)

    def tells(self, name: str) -> bool:
        """Whether any request tells a value of a field of ``WORDS``."""
        return WORDS[name].lower() in self.bytes.lower()


class _Tee:
    """What a handler reads, written down."""

    def __init__(self, source: Any, read: list[bytes]) -> None:
        self._source, self._read = source, read

    def readline(self, size: int = -1) -> bytes:
        return self._noted(self._source.readline(size))

    def read(self, size: int = -1) -> bytes:
        return self._noted(self._source.read(size))

    def _noted(self, content: bytes) -> bytes:
        self._read.append(content)
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


@contextmanager
def recording() -> Iterator[Recorder]:
    """Serve on a free port of 127.0.0.1 until the block ends."""
    recorder = Recorder()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet: the second would wait for an acknowledgement

        def setup(self) -> None:
            super().setup()
            self.rfile: Any = _Tee(self.rfile, recorder.read)

        def do_GET(self) -> None:
            self._reply({"data": [{"id": "m"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = body["messages"][-1]["content"]
            recorder.prompts.append(text)
            choices = [{"message": {"content": recorder.answer(text)}}]
            self._reply({"choices": choices, "usage": {"prompt_tokens": 9, "completion_tokens": 9}})

        def _reply(self, document: dict[str, Any]) -> None:
            content = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        recorder.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield recorder
        server.shutdown()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with recording() as server:
        yield server


@pytest.fixture
def installation(fresh: Pipeline, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """Nothing ran yet. Each id and each value of each field is a word of its own; prompts go to the recorder, told
    that titles and histories may leave, as templates say that they do."""
    monkeypatch.setattr("offline.llm.session.open_backend", open_backend)
    rewritten(fresh.folder / "interactions.csv", user="useridzq{}", item="itemidzq{}")
    rewritten(fresh.folder / "users.csv", id="useridzq{}", age="83{:0>4}", occupation="Occupationzq{}")
    rewritten(
        fresh.folder / "items.csv",
        id="itemidzq{}", title="Titlezq{}", year="71{:0>4}", genres="Genrezq{}", director="Directorzq{}",
    )  # fmt: skip
    document = fresh.config.model_dump(mode="json", exclude_unset=True)
    document["data"]["items"]["columns"] |= {"director": {}}
    document["data"]["texts"] = {"item": "{title}", "name": "{title}", "topics_column": ""}
    document["llm"] = {"backend": "openai", "base_url": recorder.url, "model": "m", "may_leave": MAY_LEAVE}
    fields = {
        "user_fields": [{"name": "age", "edges": [830005, 830010]}],
        "item_fields": [{"name": "year", "edges": [710005, 710010]}],
    }
    return fresh.with_config(data=document["data"], llm=document["llm"], feature_schema=fields)


def rewritten(path: Path, **forms: str) -> None:
    """Write every value of these columns in another form, of what its row said there before: its last word of letters
    and digits, or the number of the row for a new column."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    header = list(dict.fromkeys([*rows[0], *forms]))
    for number, row in enumerate(rows):
        for column, form in forms.items():
            row[column] = form.format("".join(filter(str.isdigit, row.get(column, ""))) or number)
    write_csv(path, header, [[row[column] for column in header] for row in rows])


def with_all_producers(installation: Pipeline) -> Pipeline:
    """LIBER, AutoGraph and the texts; MARC reads texts that these ask for."""
    knowledge = [
        KnowledgeSpec(name="text", side="item", dim=6), KnowledgeSpec(name="liber", side="user", rows=3, dim=6),
        KnowledgeSpec(name="autograph", side="user", dim=8), KnowledgeSpec(name="autograph", side="item", dim=8),
    ]  # fmt: skip
    listed = [spec.model_dump(mode="json") for spec in knowledge]
    return installation.with_config(feature_schema={"knowledge": listed}, knowledge={"autograph": FITTING})


def with_texts(installation: Pipeline, **texts: str) -> Pipeline:
    data = installation.config.data.model_dump(mode="json", exclude_unset=True)
    return installation.with_config(data={"texts": {**data["texts"], **texts}})


def test_a_run_sends_what_is_listed_and_nothing_else(
    installation: Pipeline, recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:

    def answer(text: str) -> str:
        """Titles come back, and some answers are no good, so that there are second tries."""
        return "No." if len(text) % 10 == 0 else f"{answer_to(text)} Such as {text.rpartition('Titlezq')[1]}1."

    recorder.answer = answer
    every = with_all_producers(installation)
    assert of_everything(every.job).errors == []
    entry = every.refresh()
    assert (entry["status"], entry["llm"]["paid"]) == ("done", len(recorder.prompts))
    assert set(kinds(recorder.prompts)) == {"item", "summary", "shift"}
    assert {name for name in WORDS if recorder.tells(name)} == {"title"}
    assert sum(entry["asked_again"].values()) > 0
    said = capsys.readouterr().out
    to = f"{recorder.url} (this machine)"
    assert f"  items: 20 prompts go to {to} and carry items.title\n" in said
    assert f"  interest summaries: 48 prompts go to {to} and carry history, items.title\n" in said
    assert said.index("prompts go to") < said.index("usable")


def test_nothing_is_sent_to_another_machine_that_is_not_listed(
    installation: Pipeline, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaving, "is_on_this_machine", lambda url: False)
    unlisted = with_all_producers(installation).with_config(llm={"may_leave": None})
    with pytest.raises(DataError) as raised:
        unlisted.refresh()
    assert str(raised.value) == (
        f"llm.may_leave: prompts to {recorder.url} (another machine) would carry history, items.title, which it does "
        'not list, so none is sent: write may_leave = ["history", "items.title"] in [llm] to let them '
        "(docs/security.md), or use a server on this machine"
    )
    assert recorder.read == []
    assert of_settings(unlisted.job).errors == [str(raised.value)]
    assert not unlisted.job.raw.exists()


@pytest.mark.parametrize(
    ("texts", "missing"),
    [
        ({"item": '"{title}"[ by {director}]'}, "items.director"),
        ({"name": "[{title} ({year})|{genres}]"}, "items.genres, items.year"),
        ({"topics_column": "genres"}, "items.genres"),
    ],
)
def test_a_template_that_tells_more_than_is_listed_stops_the_run(
    installation: Pipeline, recorder: Recorder, texts: dict[str, str], missing: str
) -> None:
    with pytest.raises(DataError, match=f"would carry {missing}, which it does not list"):
        with_texts(with_all_producers(installation), **texts).refresh()
    assert recorder.read == []


def test_texts_that_somebody_else_wrote_leave_only_if_listed(
    installation: Pipeline, recorder: Recorder, tmp_path: Path
) -> None:
    """One about a partition is quoted in the question about the shift that follows."""
    text = "Importedzq text about what somebody likes."
    lines = [{"user": "useridzq1", "partition": at, "text": text} for at in (0, 1)]
    (tmp_path / "users.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = Run(installation.job, "import-texts")
    with run.working():
        import_texts(run, None, tmp_path / "users.jsonl")
    with pytest.raises(DataError, match="would carry imported, which it does not list"):
        installation.refresh()
    assert recorder.read == []
    assert installation.with_config(llm={"may_leave": [*MAY_LEAVE, "imported"]}).refresh()["status"] == "done"
    assert {name for name in WORDS if recorder.tells(name)} == {"title", "imported"}


def test_a_profile_leaves_only_if_it_is_listed_and_never_with_ids(installation: Pipeline, recorder: Recorder) -> None:
    def with_profile(*profile: str, **llm: Any) -> Pipeline:
        liber = {**installation.config.knowledge.liber.model_dump(mode="json"), "profile": profile, "previous": True}
        return installation.with_config(knowledge={"liber": liber}, **({"llm": llm} if llm else {}))

    with pytest.raises(DataError, match=r"would carry users\.age, users\.occupation, which it does not list"):
        with_profile("age", "occupation").refresh()
    listed = [*MAY_LEAVE, "users.age"]
    rewritten(installation.folder / "users.csv", occupation="useridzq{}")
    with pytest.raises(
        DataError, match=r"users\.occupation holds the ids of 24 of 24 users.* knowledge\.liber\.profile"
    ):
        with_profile("age", "occupation", may_leave=[*listed, "users.occupation"]).refresh()
    assert recorder.read == []
    assert with_profile("age", may_leave=listed).refresh()["status"] == "done"
    assert {name for name in WORDS if recorder.tells(name)} == {"title", "age"}


def test_a_column_of_ids_under_another_name_never_leaves(installation: Pipeline, recorder: Recorder) -> None:
    rewritten(installation.folder / "items.csv", title="itemidzq{}")
    with pytest.raises(DataError, match=r"items\.title holds the ids of 20 of 20 items, and ids never go to"):
        installation.refresh()
    assert recorder.read == []


def test_a_dry_run_tells_and_sends_nothing(installation: Pipeline, recorder: Recorder) -> None:
    lines = list(dry_run(with_texts(installation, name="{director}").job).lines())
    assert any("a run would be refused" in line and "would carry items.director" in line for line in lines)
    assert recorder.read == []


def test_a_prompt_that_does_not_say_what_it_carries_is_not_sent(recorder: Recorder, tmp_path: Path) -> None:
    """At the last door: whichever job asks, and however."""
    config = LLMConfig(backend="openai", base_url=recorder.url, model="m", may_leave=("items.title",))
    unknown = Prompt((("user", "Directorzq"),), 5)
    known = Prompt((("user", "Titlezq"),), 5, carries=frozenset({"items.title"}))
    with open_session(config, tmp_path) as session:
        with pytest.raises(MayNotLeaveError, match="nothing tells which fields"):
            session.ask_all([known, unknown], "x")
        with pytest.raises(MayNotLeaveError, match="nothing tells which fields"):
            session.complete_live(unknown)
        assert recorder.read == []
        assert session.account.paid == 0
        assert session.ask_all([known], "x").complete
    assert issubclass(MayNotLeaveError, EXPECTED)


def test_the_fields_are_no_part_of_the_question(recorder: Recorder, tmp_path: Path) -> None:
    """Or every answer would be paid again, and every space would be another one."""
    first, second = (Prompt((("user", "x"),), 5, carries=carries) for carries in (None, frozenset({"items.title"})))
    assert first == second
    assert repr(first) == repr(second)
    config = LLMConfig(backend="openai", base_url=recorder.url, model="m")
    with open_session(config, tmp_path) as session:
        assert session.ask_all([first], "x").complete
        assert session.ask_all([second], "x").complete
    assert len(recorder.prompts) == 1


async def test_a_proxy_of_the_environment_is_not_on_the_way_to_this_machine(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with recording() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        backend = OpenAIBackend(recorder.url, "m")
        await backend.complete([Prompt((("user", "Titlezq"),), 5)])
        await backend.close()
        assert recorder.tells("title")
        assert proxy.read == []


async def test_a_call_carries_messages_and_parameters_alone(recorder: Recorder) -> None:
    backend = OpenAIBackend(recorder.url, "m")
    await backend.complete([Prompt((("user", "hi"),), 5, 0.7, 1.1, frozenset({"items.title"}))])
    await backend.close()
    head, _, body = recorder.bytes.partition(b"\r\n\r\n")
    names = {line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]}
    assert names == {
        b"host", b"accept", b"accept-encoding", b"connection", b"user-agent", b"content-length", b"content-type"
    }  # fmt: skip
    assert set(json.loads(body)) == {"model", "messages", "max_tokens", "temperature", "repetition_penalty"}
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
