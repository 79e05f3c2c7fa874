"""``config --defaults``: every key with its meaning and its default, as TOML that is understood."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.testing
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from models.contract.unknown_keys import models_in
from offline.__main__ import app
from offline.cli.defaults import EXAMPLES, default_lines, toml_value
from offline.cli.meanings import MEANINGS, meaning
from offline.config import JobConfig, load_config


def tables(model: type[BaseModel] = JobConfig) -> Iterator[type[BaseModel]]:
    """Every class of a table of a configuration."""
    yield model
    for field in model.model_fields.values():
        for inner in models_in(field.annotation):
            yield from tables(inner)


def test_every_key_has_a_meaning_and_no_meaning_is_of_a_key_that_is_gone() -> None:
    every = set(tables())
    assert [f"{table.__name__}.{key}" for table in every for key in table.model_fields if not meaning(table, key)] == []
    classes = {
        of.__name__: set(of.model_fields) for table in every for of in table.__mro__ if issubclass(of, BaseModel)
    }
    assert {(name, key) for name, keys in MEANINGS.items() for key in keys if key not in classes.get(name, ())} == set()
    assert all(text == text.strip() and "\n" not in text for keys in MEANINGS.values() for text in keys.values())


def test_the_output_is_a_configuration_of_defaults(tmp_path: Path) -> None:
    result = typer.testing.CliRunner().invoke(app, ["config", "--defaults"])
    assert result.exit_code == 0
    path = tmp_path / "defaults.toml"
    path.write_text(result.stdout, encoding="utf-8")
    config = load_config(path)
    schema = {name.partition(".")[2]: value for name, value in EXAMPLES.items() if name.startswith("feature_schema.")}
    assert config == JobConfig.model_validate(
        {"name": "mine", "workdir": "var/mine", "data": {"source": "movielens-100k"}, "feature_schema": schema}
    )


def test_what_is_commented_is_the_default() -> None:
    """Each table whose header counts, with its keys uncommented."""
    config = JobConfig.model_validate(tomllib.loads("\n".join(default_lines())))
    table, seen = "", set()
    for line in "\n".join(default_lines()).splitlines():
        if line.startswith(("[", "#[")):
            table = line if line.startswith("[") else ""
        elif line.startswith("#") and not line.startswith("# ") and table != "":
            parsed = tomllib.loads(f"{table}\n{line[1:]}" if not line.endswith("=") else f"{table}\n{line[1:]} 0")
            value: Any = parsed
            at: Any = config
            path = table.strip("[]").split(".")
            for part in path:
                value, at = value[part], getattr(at, part)
            ((key, default),) = value.items()
            of_table = to_jsonable_python(getattr(at, key))
            assert of_table == (None if line.endswith("=") else default), f"{table} {line}"
            seen.add(".".join([*path, key]))
    assert {"training.epochs", "knowledge.autograph.item_factors.size", "llm.base_url", "samples.split"} <= seen
    assert "size = 300" in default_lines(), "the class of the table has another default than its place"


def test_every_key_of_the_tables_that_may_be_left_out_is_shown_too() -> None:
    text = "\n".join(default_lines())
    for header in ("#[data.interactions]", "#[[data.item_extra]]", "#[data.items.columns.NAME]"):
        assert header in text
    assert "#[[feature_schema.knowledge]]" in text
    assert "# how the text of the column is read (text | int | float | list)\n#type = " in text


@pytest.mark.parametrize(
    "value", [1, 0.001, True, 'a "quoted" \n line', ["a", 2.5], {}, {"a": [1], "b": {"c": "d"}}, Path("a/b")]
)
def test_values_survive_toml(value: object) -> None:
    document = to_jsonable_python(value)
    assert tomllib.loads(f"key = {toml_value(document)}") == {"key": document}


def test_without_an_option_the_command_says_which() -> None:
    assert typer.testing.CliRunner().invoke(app, ["config"]).exit_code == 2
