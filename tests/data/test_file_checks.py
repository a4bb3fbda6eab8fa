"""Atomic files looked at before they are read: each fault by its line, and none in good files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_choir.data.file_checks import Expected, Finding, check_files, refuse
from recbole_choir.errors import DataError

HEADER = "user_id:token\titem_id:token\tlabel:float\ttimestamp:float\tplace:token\n"
ROWS = [
    f"u{i % 7}\ti{i % 11}\t{int(i % 3 == 0)}\t{1_600_000_000 + i}\tp{i % 4}\n" for i in range(60)
]
ITEMS = "item_id:token\tcategory:token\tprice:float\n" + "".join(
    f"i{i}\tc{i % 3}\t{i}.5\n" for i in range(11)
)


def looked_at(
    folder: Path, inter: str | bytes, item: str | bytes = ITEMS, **more: Any
) -> list[Finding]:
    files = []
    for suffix, text in (("inter", inter), ("item", item)):
        path = folder / f"d.{suffix}"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        files.append((path, suffix))
    names = {"user": "user_id", "item": "item_id", "time": "timestamp", "label": "label"}
    return check_files(files, Expected(**{**names, "contexts": ("place",), **more}))


def whole(rows: list[str] | None = None, header: str = HEADER) -> str:
    return header + "".join(ROWS if rows is None else rows)


def with_row(row: str) -> str:
    return whole([*ROWS, row])


def test_good_files_have_no_findings(tmp_path: Path) -> None:
    assert looked_at(tmp_path, whole()) == []


# fmt: off
ERRORS: list[tuple[str, str | bytes, str]] = [
    ("empty", "", "d.inter: is empty: expected a header"),
    ("no rows", HEADER, "d.inter: has a header and no rows"),
    ("bom", b"\xef\xbb\xbf" + whole().encode(), "byte order mark of utf-8-sig: expected utf-8"),
    ("utf-16", whole().encode("utf-16"), "byte order mark of utf-16"),
    ("no type", whole(header=HEADER.replace(":token", "", 1)), "expected name:type .* 'user_id'"),
    ("odd type", whole(header=HEADER.replace("token", "str", 1)), "got 'user_id:str'"),
    ("commas", whole().replace("\t", ","), r"field_separator is '\\t'"),
    ("twice", whole(header=HEADER.replace("place", "label")), "d.inter, label: is twice"),
    (
        "no user",
        whole(header=HEADER.replace("user_id", "uid")),
        "expected the columns user_id, got",
    ),
    ("no time", whole(header=HEADER.replace("timestamp", "t")), "expected the columns timestamp"),
    ("few fields", with_row("u1\ti1\n"), "expected 5 fields in each row, got 2 in 'u1"),
    ("many fields", with_row("u\ti\t1\t5\tp\tq\n"), "expected 5 fields in each row, got 6"),
    (
        "no id",
        with_row("\ti1\t1\t1600000100\tp\n"),
        "user_id: expected an id in every row, got none",
    ),
    ("text label", with_row("u1\ti1\tyes\t1600000100\tp\n"), "label: expected numbers, got 'yes'"),
    ("no label", with_row("u1\ti1\t\t1600000100\tp\n"), "label: expected a number in every row, got 1"),  # noqa: E501
    ("nan label", with_row("u1\ti1\tnan\t1600000100\tp\n"), "label: expected a number in every row, got 1"),  # noqa: E501
    (
        "label 2",
        with_row("u1\ti1\t2\t1600000100\tp\n"),
        "label: expected labels 0 and 1, got 0, 1, 2",
    ),
    ("text time", with_row("u1\ti1\t1\t2020-01-01\tp\n"), "timestamp: expected numbers, got '2020"),
    ("no time value", with_row("u1\ti1\t1\t\tp\n"), "timestamp: expected a number in every row, got 1"),  # noqa: E501
    ("infinite", with_row("u1\ti1\t1\tinf\tp\n"), "timestamp: expected finite numbers, got 1"),
    ("ms", whole().replace("16000000", "16000000000"), "look like ms .*2020.*set time_unit: ms"),
    ("us", whole().replace("16000000", "16000000000000"), "look like us .* set time_unit: us"),
    ("ns", whole().replace("16000000", "16000000000000000"), "look like ns .*set time_unit: ns"),
    (
        "one class",
        whole([r.replace("\t1\t", "\t0\t") for r in ROWS]),
        "expected both classes, got 0",
    ),
    (
        "latin-1",
        whole().replace("p1", "café").encode("latin-1"),
        "place: expected utf-8, got bytes",
    ),
    (
        "quote",
        with_row('"u1\ti1\t1\t1600000100\tp\n'),
        r'start with a quote \("\), and not all are closed',
    ),
    (
        "label as token",
        whole(header=HEADER.replace("label:float", "label:token")),
        "label: expected the type float, got token",
    ),
    (
        "the label in disguise",
        whole([r.replace("\tp", "\tyes" if "\t1\t" in r else "\tno") for r in ROWS]),
        "place: each of its values has one label only",
    ),
]
# fmt: on


@pytest.mark.parametrize(("name", "inter", "message"), ERRORS, ids=[e[0] for e in ERRORS])
def test_each_fault_is_one_line(
    tmp_path: Path, name: str, inter: str | bytes, message: str
) -> None:
    found = looked_at(tmp_path, inter)
    with pytest.raises(DataError, match=message) as caught:
        refuse(found)
    assert "\n" not in str(caught.value)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    rows = [*ROWS, "\ti1\tyes\t1600000100\tp\n"]
    found = looked_at(tmp_path, whole(rows), ITEMS + "i3\tother\t1\n")
    assert [f.column for f in found] == ["user_id", "label", "item_id"]
    with pytest.raises(DataError, match=r"3 things are wrong with the files: d.inter, user_id: "):
        refuse(found)


def test_doubles_of_an_item(tmp_path: Path) -> None:
    (found,) = looked_at(tmp_path, whole(), ITEMS + "i3\tother\t1\n")
    assert "expected each id once, got 1 rows too many, such as of 'i3'" in found.text


def test_names_that_pandas_takes_for_missing_are_ids(tmp_path: Path) -> None:
    rows = [*ROWS, *(f"{n}\ti1\t1\t1600000100\tp\n" for n in ("nan", "NA", "null", "None"))]
    assert looked_at(tmp_path, whole(rows)) == []


def test_ids_that_differ_by_case_or_blanks_alone_are_told(tmp_path: Path) -> None:
    rows = [*ROWS, "U1\ti1\t1\t1600000100\tp\n", " u2\ti1\t1\t1600000100\tp\n"]
    (found,) = looked_at(tmp_path, whole(rows))
    assert found.level == "warning"
    assert "2 ids differ from another by case or blanks alone" in found.text


def test_a_declared_unit_is_no_fault(tmp_path: Path) -> None:
    text = whole().replace("16000000", "16000000000")
    assert looked_at(tmp_path, text, time_unit="ms") == []
    assert looked_at(tmp_path, whole(), encoding="utf-8") == []


def test_an_encoding_that_is_given_is_read(tmp_path: Path) -> None:
    text = whole().replace("p1", "café").encode("latin-1")
    assert looked_at(tmp_path, text, encoding="latin-1", item=ITEMS.encode("latin-1")) == []
    marked = b"\xef\xbb\xbf" + whole().encode()
    assert [f.text for f in looked_at(tmp_path, marked, encoding="utf-8-sig")] == []


def test_a_rating_may_be_any_number_and_columns_that_are_not_read_anything(tmp_path: Path) -> None:
    rows = [r.replace("\t1\t", "\t4.5\t") for r in ROWS]
    assert looked_at(tmp_path, whole(rows), threshold=4.0) == []
    bad = whole(header=HEADER.replace("place:token", "place:float"))
    assert [f.column for f in looked_at(tmp_path, bad)] == ["place"]
    read = {"inter": {"user_id", "item_id", "label", "timestamp"}}
    assert looked_at(tmp_path, bad, read=read) == []


def test_closed_quotes_are_read_as_in_csv(tmp_path: Path) -> None:
    rows = [*ROWS, '"u\t1"\ti1\t1\t1600000100\t"two\nlines"\n']
    assert looked_at(tmp_path, whole(rows)) == []


def test_a_column_that_explains_most_of_the_label_is_told(tmp_path: Path) -> None:
    cells = [r.split("\t")[:4] for r in ROWS]
    clean = ["\t".join([*c, "yes" if c[2] == "1" else "no"]) for c in cells]
    clean[0] = clean[0].replace("yes", "no")  # one row speaks against it
    (found,) = looked_at(tmp_path, whole([r + "\n" for r in clean]))
    assert found.level == "warning"
    assert "explain" in found.text


def test_times_beyond_2100_are_told(tmp_path: Path) -> None:
    (found,) = looked_at(tmp_path, whole().replace("16000000", "59000000"))
    assert (found.level, found.column) == ("warning", "timestamp")
    assert "the year 2156" in found.text


@given(st.binary(max_size=400))
def test_any_bytes_end_in_findings_or_nothing(tmp_path_factory: Any, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("any")
    for start in (b"", HEADER.encode()):
        found = looked_at(folder, start + content)
        assert all("\n" not in str(f) for f in found)


def test_blocks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*ROWS * 40, "u1\ti1\tyes\t1600000100\tp\n", "U1\ti1\t1\t1600000100\tp\n"]
    text: Callable[[], list[str]] = lambda: sorted(map(str, looked_at(tmp_path, whole(rows))))  # noqa: E731
    before = text()
    monkeypatch.setattr("recbole_choir.data.file_checks.BLOCK", 700)
    assert text() == before
