"""Which servers are this machine, and which fields may go to the others."""

from __future__ import annotations

import httpx2
import pytest
from pydantic import TypeAdapter, ValidationError

from models.contract.leaving import FieldName, Outlet, is_loopback, is_on_this_machine

REMEDY = "write {list} or {commas}"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8001/v1",
        "https://127.8.9.1",
        "http://localhost:8001",
        "http://LOCALHOST/",
        "http://[::1]:8001/v1",
        "http://user:pass@127.0.0.1/v1",
    ],
)
def test_loopback_is_this_machine(url: str) -> None:
    assert is_on_this_machine(url)
    assert is_loopback(httpx2.URL(url).host), "the client that sends prompts must go where the rule says"


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com/v1",
        "http://vllm:8000/v1",
        "http://10.0.0.7:8001",
        "http://0.0.0.0:8001",
        "http://127.0.0.1@example.com/v1",
        "http://127.0.0.1:80@example.com/v1",
        "http://example.com#@127.0.0.1/",
        "http://example.com\\@127.0.0.1/",
        "http://example.com/@127.0.0.1",
        "http://127.0.0.1.example.com/v1",
        "http://localhost.example.com",
        "http://127.1:8001",
        "http://2130706433/",
        "http://[::ffff:10.0.0.7]/v1",
        "http://127.0.0.1 .example.com",
        "ftp://127.0.0.1/",
        "",
    ],
)
def test_whatever_is_not_plainly_loopback_is_another_machine(url: str) -> None:
    assert not is_on_this_machine(url)


def test_a_server_on_this_machine_may_read_all_unless_a_list_says_which() -> None:
    assert Outlet.to("http://127.0.0.1:1/v1", None).refusal({"items.title"}, "x", REMEDY) == ""
    assert Outlet.to("http://127.0.0.1:1/v1", None).refusal(None, "x", REMEDY) == ""
    assert "items.title" in Outlet.to("http://127.0.0.1:1/v1", ()).refusal({"items.title"}, "x", REMEDY)


def test_another_server_may_read_what_is_listed_and_nothing_else() -> None:
    url = "https://name:secret@api.example.com/v1"
    assert Outlet.to(url, ["items.title", "history"]).refusal({"items.title"}, "x", REMEDY) == ""
    assert Outlet.to(url, None).refusal(set(), "x", REMEDY) == ""
    assert Outlet.to(url, ["history"]).refusal({"items.title", "history"}, "may_leave", REMEDY) == (
        "may_leave: prompts to https://api.example.com/v1 (another machine) would carry items.title, which it does not "
        'list, so none is sent: write ["history", "items.title"] or history,items.title'
    )
    assert "nothing tells which fields" in Outlet.to(url, ["history"]).refusal(None, "x", REMEDY)


@pytest.mark.parametrize("name", ["history", "imported", "items.title", "users.age", "items.Été 1"])
def test_fields_have_names(name: str) -> None:
    assert TypeAdapter(FieldName).validate_python(name) == name


@pytest.mark.parametrize("name", ["", "title", "items.", "items. ", "user.age", "*"])
def test_what_names_no_field_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(FieldName).validate_python(name)
