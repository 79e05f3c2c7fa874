"""Text files as they come: index columns, escapes, quotes that swallow rows, cut files, bad rows that are left out."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offline.data.bad_rows import bad_rows_note
from offline.data.catalogue import DataError
from offline.data.config import TableConfig
from offline.data.dataset import BAD_ROWS
from offline.data.delimited import DelimitedFile
from offline.data.rules import Findings, Problems
from tests.offline.data import shop

HEADER = "reader,book,stars,at\n"
ROWS = [f"r{at},b{1 + at % 3},{1 + at % 5},{1_700_000_000 + at}\n" for at in range(40)]


def read(folder: Path, content: str, **settings: Any) -> tuple[pl.DataFrame | None, list[int], Findings]:
    """Frame, row numbers and findings of one file."""
    path, problems = folder / "t.csv", Problems()
    path.write_bytes(content.encode())
    result = DelimitedFile(path, TableConfig.model_validate({"paths": str(path), **settings}), problems).read()
    frame, rows = (None, []) if result is None else (result[0], result[1].to_list())
    return frame, rows, problems.findings()


def test_an_index_column_without_a_name_is_left_out(tmp_path: Path) -> None:
    shop.write(tmp_path)
    (tmp_path / "ratings.csv").write_text(",reader,book,stars,at\n0,r1,b1,5,1700000000\n1,r2,b2,2,1700000100\n")
    source = shop.source(tmp_path)
    assert [row[:2] for row in source.interactions()] == [("r1", "b1"), ("r2", "b2")]
    (warning,) = [line for line in source.check(shop.SCHEMA).warnings if line.startswith("index_column")]
    assert "before 'reader'" in warning


def test_a_column_without_a_name_elsewhere_is_an_error(tmp_path: Path) -> None:
    assert read(tmp_path, "a,,c\n1,2,3\n")[2].errors[0].startswith("header: ")
    assert read(tmp_path, ",\n1,2\n")[2].errors[0].startswith("header: ")


def test_escaped_quotes_separators_and_line_ends(tmp_path: Path) -> None:
    content = 'a,b\n1,"say \\"hi\\", twice"\n2,x\\,y\n3,"two\nlines"\n4,"a ""b"""\n5,back\\\\slash\n'
    frame, rows, findings = read(tmp_path, content, escape="\\")
    assert findings.errors == []
    assert frame is not None
    assert frame["b"].to_list() == ['say "hi", twice', "x,y", "two\nlines", 'a "b"', "back\\slash"]
    assert rows == [1, 2, 3, 4, 5]


def test_a_null_that_begins_with_the_escape_is_read_as_it_stands(tmp_path: Path) -> None:
    frame, _, findings = read(
        tmp_path, "a\tb\n\\N\tx\\\ty\nn\t\\N\n", escape="\\", quote="", separator="\t", nulls=["\\N"]
    )
    assert findings.errors == []
    assert frame is not None
    assert frame.rows() == [("\\N", "x\ty"), ("n", "\\N")]


def test_without_an_escape_a_backslash_is_a_backslash(tmp_path: Path) -> None:
    frame, _, _ = read(tmp_path, 'a,b\n1,"x\\"\n2,\\N\n')
    assert frame is not None
    assert frame["b"].to_list() == ["x\\", "\\N"]


def test_a_quote_that_swallows_rows_is_named_with_the_row_where_it_opens(tmp_path: Path) -> None:
    """The second quote closes the field at the end of another, so that all seems well-formed."""
    rows = list(ROWS)
    rows[4] = '"r4,b2,5,1700000004\n'
    rows[17] = 'r17,b3,3,1700000017"\n'
    _, _, findings = read(tmp_path, HEADER + "".join(rows))
    (error,) = findings.errors
    assert error.startswith("quotes: ")
    assert "t.csv, row 5: " in error


def test_two_rows_in_one_are_found(tmp_path: Path) -> None:
    rows = [f"{at},Title {at},{at % 5}\n" for at in range(20)]
    rows[6], rows[7] = '6,"Odd title,1\n', '7,Screen of 27",2\n'
    frame, numbers, findings = read(tmp_path, "id,title,stars\n" + "".join(rows))
    assert findings.errors[0].startswith("quotes: 1 ")
    assert "row 7: " in findings.errors[0]
    assert frame is not None
    assert "7" in frame["id"].to_list()  # the swallowed row is read
    assert numbers == [*range(1, 7), *range(8, 21)]


def test_texts_of_several_lines_are_no_fault(tmp_path: Path) -> None:
    lines = [f'{at},"A plot, and then\nanother one, told\nin three lines, or four.",{at}\n' for at in range(30)]
    frame, rows, findings = read(tmp_path, "id,plot,year\n" + "".join(lines))
    assert findings.errors == []
    assert frame is not None
    assert rows == list(range(1, 31))


def test_two_columns_of_prose_are_no_fault(tmp_path: Path) -> None:
    frame, _, findings = read(tmp_path, 'id,plot\n1,"One line\nand, another"\n2,short\n')
    assert findings.errors == []
    assert frame is not None
    assert frame["plot"].to_list() == ["One line\nand, another", "short"]


@pytest.mark.parametrize("row", ['r9,"b1" x,5,1700000000\n', 'r9,b1,5,"1700000000\n'])
def test_what_a_strict_reader_refuses_is_refused(tmp_path: Path, row: str) -> None:
    _, _, findings = read(tmp_path, HEADER + ROWS[0] + row + ROWS[1])
    (error,) = findings.errors
    assert error.startswith("quotes: ")
    assert "row 2: " in error


@given(
    st.integers(2, 4).flatmap(
        lambda fields: st.lists(
            st.lists(st.text('ab ,"\\\\é', max_size=4), min_size=fields, max_size=fields), min_size=1, max_size=6
        )
    ),
    st.booleans(),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_is_written_well_is_read_as_it_was(
    tmp_path: Path, rows: list[list[str]], escaped: bool, quoting: Literal[0, 1]
) -> None:
    text = io.StringIO(newline="")
    escape = "\\" if escaped else None
    writer = csv.writer(text, quoting=quoting, escapechar=escape, doublequote=not escaped)
    writer.writerows([[f"c{at}" for at in range(len(rows[0]))], *rows])
    frame, numbers, findings = read(tmp_path, text.getvalue(), escape=escape or "")
    assert findings.errors == []
    assert frame is not None
    assert [list(row) for row in frame.rows()] == rows
    assert numbers == list(range(1, len(rows) + 1))


def test_quotes_inside_a_field_are_text(tmp_path: Path) -> None:
    frame, _, findings = read(tmp_path, 'id,title\n1,a "loud" day\n2,27" screen\n')
    assert findings.errors == []
    assert frame is not None
    assert frame["title"].to_list() == ['a "loud" day', '27" screen']


def test_shapes_and_cells_are_told_at_once(tmp_path: Path) -> None:
    shop.write(tmp_path)
    (tmp_path / "ratings.csv").write_text(HEADER + "r1,b1,5\nr2,b2,five,1700000100\n,b3,5,soon\nr3,b1,4,1700000000,x\n")
    errors = shop.source(tmp_path).check(shop.SCHEMA).errors
    assert [line.split(":")[0] for line in errors] == ["row_shape", "id_empty", "time_value", "value_number"]
    assert "row_shape: 2 " in errors[0]


@pytest.mark.parametrize(
    ("cut", "place"),
    [("r9,b1,5,17", "row 41, column 'at': '17'"), ("r9,b1,5,", "row 41, column 'at': ''")],
)
def test_a_cut_last_line_is_a_warning(tmp_path: Path, cut: str, place: str) -> None:
    _, _, findings = read(tmp_path, HEADER + "".join(ROWS) + cut)
    (warning,) = findings.warnings
    assert warning.startswith("last_line: ")
    assert place in warning


def test_a_last_line_that_is_too_short_may_have_been_cut(tmp_path: Path) -> None:
    _, _, findings = read(tmp_path, HEADER + "".join(ROWS) + "r9,b1")
    (error,) = findings.errors
    assert error.startswith("row_shape: 1 ")
    assert error.endswith(
        "row 41: ['r9', 'b1']: 2 fields, not 4; it is the last line, and has no end: was the file cut?"
    )


def test_a_whole_last_line_needs_no_end(tmp_path: Path) -> None:
    assert read(tmp_path, HEADER + "".join(ROWS).rstrip())[2].warnings == []


BAD = [
    ("r9,b1,5\n", "row_shape"),
    ('r9,"b1" x,5,1700000000\n', "quotes"),
    (",b1,5,1700000000\n", "id_empty"),
    ("r9,b1,five,1700000000\n", "value_number"),
    ("r9,b1,9,1700000000\n", "value_range"),
    ("r9,b1,5,soon\n", "time_value"),
    ("r9,b1,5,-1\n", "time_negative"),
    ("r9,b1,5,17\n", "time_far"),
    ("r9,b1,5,4102444800\n", "time_future"),
]


@pytest.mark.parametrize(("row", "rule"), BAD)
def test_bad_rows_are_left_out_and_listed_up_to_their_share(tmp_path: Path, row: str, rule: str) -> None:
    shop.write(tmp_path)
    content = HEADER + "".join(ROWS[:20]) + row + "".join(ROWS[20:])
    (tmp_path / "ratings.csv").write_text(content)
    assert any(line.startswith(f"{rule}: 1 ") for line in shop.source(tmp_path).check(shop.SCHEMA).errors)
    source = shop.source(tmp_path, interactions={"bad_rows_at_most": 0.03})
    findings = source.check(shop.SCHEMA)
    assert findings.errors == []
    (warning,) = [line for line in findings.warnings if line.startswith("row_skipped")]
    assert "ratings.csv, row 21" in warning
    assert warning.endswith(rule)
    assert "40 interactions of 40 users with 3 items" in findings.facts
    assert len(list(source.interactions(findings.left_out))) == 40
    assert bad_rows_note(tmp_path / BAD_ROWS) == f", 1 bad rows left out, listed in {tmp_path / BAD_ROWS}"
    with (tmp_path / "bad_rows.csv").open(newline="") as file:
        (entry,) = csv.DictReader(file)
    assert (entry["rule"], entry["file"], entry["row"]) == (rule, str(tmp_path / "ratings.csv"), "21")


def test_more_bad_rows_than_allowed_are_errors(tmp_path: Path) -> None:
    shop.write(tmp_path)
    content = HEADER + "".join(ROWS) + "r9,b1,five,1700000000\nr9,b1\nr9,b1,7,1700000000\n"
    (tmp_path / "ratings.csv").write_text(content)
    findings = shop.source(tmp_path, interactions={"bad_rows_at_most": 0.05}).check(shop.SCHEMA)
    assert [line.split(":")[0] for line in findings.errors] == ["row_shape", "bad_rows", "value_number", "value_range"]
    assert "3 of 43 rows are bad, 2 may be" in findings.errors[1]
    assert bad_rows_note(tmp_path / BAD_ROWS) == ""
    with pytest.raises(DataError, match="bad_rows: 1 "):
        findings.raise_if_broken()


def test_all_errors_are_counted_where_too_many_rows_are_bad(tmp_path: Path) -> None:
    shop.write(tmp_path)
    (tmp_path / "ratings.csv").write_text(HEADER + "".join(ROWS) + "r9,b1,five,1700000000\n" * 60)
    findings = shop.source(tmp_path, interactions={"bad_rows_at_most": 0.05}).check(shop.SCHEMA)
    assert any(line.startswith("value_number: 60 ") for line in findings.errors)
    assert "at least 60 of 100 rows are bad, 5 may be" in findings.errors[0]


def test_bad_rows_of_descriptions_are_left_out_too(tmp_path: Path) -> None:
    shop.write(tmp_path)
    books = [f"b{at},Title {at},{1990 + at},History\n" for at in range(20)]
    (tmp_path / "books.csv").write_text("book,title,published,subjects\n" + "".join(books) + "b99,Odd,MCMXC,History\n")
    assert shop.source(tmp_path).check(shop.SCHEMA).errors[0].startswith("number: 1 ")
    source = shop.source(tmp_path, items={"bad_rows_at_most": 0.05})
    assert source.check(shop.SCHEMA).errors == []
    assert "b99" not in source.catalogue().items
    assert len(source.catalogue().items) == 20


def test_a_list_of_bad_rows_goes_with_them(tmp_path: Path) -> None:
    shop.write(tmp_path)
    changed = {"bad_rows_at_most": 0.05}
    (tmp_path / "ratings.csv").write_text(HEADER + "".join(ROWS) + "r9,b1\n")
    shop.source(tmp_path, interactions=changed).check(shop.SCHEMA)
    assert (tmp_path / "bad_rows.csv").is_file()
    (tmp_path / "ratings.csv").write_text(HEADER + "".join(ROWS))
    shop.source(tmp_path, interactions=changed).check(shop.SCHEMA)
    assert not (tmp_path / "bad_rows.csv").exists()
