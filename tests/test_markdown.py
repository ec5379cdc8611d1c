"""Sections of a file that is otherwise its author's, and tables whose cells stay cells."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys import markdown
from recsys.errors import DataError
from recsys.markdown import Cells, check_section, table, write_section

NAME = "bench: mine"
BEGIN, END = "<!-- bench: mine -->", "<!-- /bench: mine -->"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_section_is_replaced_and_what_stands_around_it_stays(newline: str, tmp_path: Path) -> None:
    file = tmp_path / "R.md"
    before, after = f"# Mine{newline}é{newline}", f"{newline}<!-- bench: other -->{newline}   no newline at the end"
    file.write_bytes(f"{before}{BEGIN}{newline}old{newline}{END}{after}".encode())
    for _ in range(2):  # the second time changes nothing
        write_section(file, NAME, "new\n")
        assert file.read_bytes().decode() == f"{before}{BEGIN}{newline}new{newline}{END}{after}"


@pytest.mark.parametrize(
    ("text", "gap"), [("# Mine\n", "\n"), ("# Mine", "\n\n"), ("<!-- bench: mine2 -->\n", "\n"), ("", "")]
)
def test_a_section_is_added_at_the_end_where_there_is_none(text: str, gap: str, tmp_path: Path) -> None:
    file = tmp_path / "R.md"
    file.write_text(text)
    write_section(file, NAME, "new\n")
    assert file.read_text() == f"{text}{gap}{BEGIN}\nnew\n{END}\n"


def test_a_file_is_made_where_there_is_none(tmp_path: Path) -> None:
    write_section(tmp_path / "R.md", NAME, "new\n")
    assert (tmp_path / "R.md").read_text() == f"{BEGIN}\nnew\n{END}\n"


@given(st.text(st.characters(codec="utf-8"), max_size=30), st.text(st.characters(codec="utf-8"), max_size=30))
def test_any_text_around_it_stays(before: str, after: str) -> None:
    assert markdown._around(f"{before}{BEGIN}x{END}{after}", NAME, Path("R.md")) == (before, after)


@pytest.mark.parametrize("text", [BEGIN, END, END + BEGIN, BEGIN * 2 + END, BEGIN + END * 2])
def test_a_marker_without_its_other_is_refused_and_nothing_is_written(text: str, tmp_path: Path) -> None:
    file = tmp_path / "R.md"
    file.write_text(text)
    with pytest.raises(DataError, match="mend the markers by hand"):
        check_section(file, NAME)
    with pytest.raises(DataError, match="mend the markers by hand"):
        write_section(file, NAME, "new\n")
    assert file.read_text() == text


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "R.md").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot be read as text"):
        check_section(tmp_path / "R.md", NAME)
    with pytest.raises(DataError, match="cannot be read as text"):
        check_section(tmp_path, NAME)


def test_cells_stay_cells() -> None:
    cells = Cells("Which?", ("name", "how", "µs"), (("a|b", "c*", "1.0"),), left=2)
    assert table(cells, 3) == [
        "### Which?",
        "",
        "| name | how | µs |",
        "| --- | --- | ---: |",
        "| a\\|b | c\\* | 1.0 |",
        "",
    ]
