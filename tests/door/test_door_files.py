"""Atomic files of every bad kind: refused in one line, told in a warning, or read as they are."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_dataset import HEADER, ITEMS, USERS, Door, rows, text_of, write_dataset

from recbole_choir.errors import ChoirError
from recbole_choir.integration.config import ChoirConfig
from recbole_choir.integration.dataset import create_dataset

WHOLE = text_of(rows())
Files = dict[str, "str | bytes"]
Cells = list[str]


def cell(row: int, column: int, value: str) -> str:
    """The rows with one other cell."""
    out = rows()
    out[row][column] = value
    return text_of(out)


def column(number: int, change: Callable[[int, Cells], str]) -> str:
    """The rows with another column."""
    out = rows()
    for i, cells in enumerate(out):
        cells[number] = change(i, cells)
    return text_of(out)


def head(old: str, new: str) -> str:
    return WHOLE.replace(old, new, 1)


E_ROW = "expected a number in every row, got 1 of 240 without"
REFUSED: list[tuple[str, Files, dict[str, str], str]] = [
    ("empty", {"inter": b""}, {}, "small.inter: is empty: expected a header"),
    ("empty user", {"user": b""}, {}, "small.user: is empty: expected a header"),
    ("empty item", {"item": b""}, {}, "small.item: is empty: expected a header"),
    ("no rows", {"inter": HEADER}, {}, "small.inter: has a header and no rows"),
    ("no items", {"item": ITEMS.split("\n")[0] + "\n"}, {}, "small.item: has a header and no rows"),
    ("bom", {"inter": b"\xef\xbb\xbf" + WHOLE.encode()}, {}, "byte order mark of utf-8-sig"),
    (
        "bom item",
        {"item": b"\xef\xbb\xbf" + ITEMS.encode()},
        {},
        "small.item: starts with the byte",
    ),
    ("utf-16", {"inter": WHOLE.encode("utf-16")}, {}, "mark of utf-16: expected utf-8; set enc"),
    ("utf-32", {"inter": WHOLE.encode("utf-32")}, {}, "mark of utf-32: expected utf-8; set enc"),
    ("utf-16 unmarked", {"inter": WHOLE.encode("utf-16-le")}, {}, "got NUL; set encoding: utf-16"),
    (
        "utf-16 said and not meant",
        {},
        {"encoding": "utf-16"},
        "small.inter: header: expected text in utf-16",
    ),
    (
        "latin-1",
        {"inter": WHOLE.replace("p1", "é").encode("latin-1")},
        {},
        "small.inter, place: expected utf-8, got bytes b'\\xe9'",
    ),
    (
        "latin-1 item",
        {"item": ITEMS.replace("m1", "é").encode("latin-1")},
        {},
        "small.item, maker: expected utf-8, got bytes b'\\xe9'",
    ),
    (
        "latin-1 id",
        {"inter": cell(5, 0, "é").encode("latin-1")},
        {},
        "small.inter, user_id: expected utf-8, got bytes",
    ),
    ("quoted id", {"inter": cell(5, 0, '"u1')}, {}, "user_id: 1 values start with a quote"),
    ("quoted place", {"inter": cell(5, 4, '"p1')}, {}, "place: 1 values start with a quote"),
    ("quoted label", {"inter": cell(5, 2, '"1')}, {}, "label: expected numbers, got '\"1'"),
    ("quoted maker", {"item": ITEMS.replace("m1", '"m1', 1)}, {}, "maker: 1 values start with a"),
    (
        "quote at the end",
        {"user": USERS + 'u12\t20\t"c1\n'},
        {},
        "city: 1 values start with a quote",
    ),
    ("no user column", {"inter": head("user_id", "uid")}, {}, "expected the columns user_id, got"),
    ("no item column", {"inter": head("item_id", "iid")}, {}, "expected the columns item_id, got"),
    (
        "no time column",
        {"inter": head("timestamp", "t")},
        {},
        "expected the columns timestamp, got",
    ),
    (
        "no label column",
        {"inter": head("label", "y")},
        {},
        "expected the columns label, got user_id",
    ),
    ("no id in user", {"user": USERS.replace("user_id", "id")}, {}, "small.user: expected the col"),
    ("no id in item", {"item": ITEMS.replace("item_id", "id")}, {}, "small.item: expected the col"),
    (
        "no place column",
        {"inter": head("place", "spot")},
        {},
        "expected the columns place, got user",
    ),
    (
        "no city column",
        {"user": USERS.replace("city", "town")},
        {},
        "expected the columns city, got",
    ),
    ("one untyped", {"inter": head(":token", "")}, {}, "name:type with a type of token, token_seq"),
    (
        "all untyped",
        {"inter": WHOLE.replace(":token", "").replace(":float", "")},
        {},
        "got 'user_id' (field_separator",
    ),
    ("no header", {"inter": WHOLE.split("\n", 1)[1]}, {}, "header: expected name:type"),
    ("unknown type", {"inter": head(":token", ":text")}, {}, "got 'user_id:text'"),
    (
        "type with a blank",
        {"inter": head("user_id:token", "user_id:token ")},
        {},
        "got 'user_id:tok",
    ),
    ("nameless column", {"inter": head("place:token", "")}, {}, "name:type with a type"),
    ("commas", {"inter": WHOLE.replace("\t", ",")}, {}, "(field_separator is '\\t')"),
    ("other separator", {}, {"field_separator": "'|'"}, "(field_separator is '|')"),
    ("column twice", {"inter": head("place:", "label:")}, {}, "label: is twice in the header"),
    (
        "id a number",
        {"inter": head("user_id:token", "user_id:float")},
        {},
        "the type token, got flo",
    ),
    (
        "item a list",
        {"inter": head("item_id:token", "item_id:token_seq")},
        {},
        "token, got token_seq",
    ),
    ("time a token", {"inter": head("timestamp:float", "timestamp:token")}, {}, "float, got token"),
    (
        "label a token",
        {"inter": head("label:float", "label:token")},
        {},
        "the type float, got token",
    ),
    ("label a list", {"inter": head("label:float", "label:float_seq")}, {}, "float, got float_seq"),
    ("price a list", {"inter": head("price:float", "price:float_seq")}, {}, "price (float_seq)"),
    (
        "id missing",
        {"inter": cell(5, 0, "")},
        {},
        "user_id: expected an id in every row, got none in 1",
    ),
    (
        "id blank",
        {"inter": cell(5, 0, "  ")},
        {},
        "user_id: expected an id in every row, got none in",
    ),
    (
        "item missing",
        {"inter": cell(5, 1, "")},
        {},
        "item_id: expected an id in every row, got none",
    ),
    (
        "item id missing",
        {"item": ITEMS + "\tk1\tm1\n"},
        {},
        "small.item, item_id: expected an id in e",
    ),
    (
        "user id missing",
        {"user": USERS + "\t1\tc1\n"},
        {},
        "small.user, user_id: expected an id in ev",
    ),
    ("user twice", {"user": USERS + "u1\t50\tc2\n"}, {}, "got 1 rows too many, such as of 'u1'"),
    (
        "user twice alike",
        {"user": USERS + "u1\t21\tc1\n"},
        {},
        "got 1 rows too many, such as of 'u1'",
    ),
    ("item twice", {"item": ITEMS + "i1\tk3\tm0\n"}, {}, "got 1 rows too many, such as of 'i1'"),
    (
        "strangers",
        {"user": "user_id:token\tage:float\tcity:token\nx\t1\tc\n"},
        {},
        "got none, such as",
    ),
    (
        "ms",
        {"inter": column(3, lambda i, c: c[3] + "000")},
        {},
        "look like ms (the year 2020); set ti",
    ),
    (
        "us",
        {"inter": column(3, lambda i, c: c[3] + "0" * 6)},
        {},
        "look like us (the year 2020); set",
    ),
    (
        "ns",
        {"inter": column(3, lambda i, c: c[3] + "0" * 9)},
        {},
        "look like ns (the year 2020); set",
    ),
    (
        "one in ms",
        {"inter": cell(3, 3, "1600000000000")},
        {},
        "look like ms (the year 2020); set time",
    ),
    ("s said to be ms", {}, {"time_unit": "ms"}, "look like s (the year 2020); set time_unit: s"),
    ("s said to be us", {}, {"time_unit": "us"}, "look like s (the year 2020); set time_unit: s"),
    ("s said to be ns", {}, {"time_unit": "ns"}, "look like s (the year 2020); set time_unit: s"),
    (
        "time text",
        {"inter": cell(3, 3, "2020-01-01")},
        {},
        "timestamp: expected numbers, got '2020-0",
    ),
    ("time hex", {"inter": cell(3, 3, "0x10")}, {}, "timestamp: expected numbers, got '0x10'"),
    ("time 1_000", {"inter": cell(3, 3, "1_000")}, {}, "timestamp: expected numbers, got '1_000'"),
    ("time missing", {"inter": cell(3, 3, "")}, {}, f"timestamp: {E_ROW}"),
    ("time nan", {"inter": cell(3, 3, "nan")}, {}, f"timestamp: {E_ROW}"),
    ("time inf", {"inter": cell(3, 3, "inf")}, {}, "timestamp: expected finite numbers, got 1 inf"),
    (
        "time 1e400",
        {"inter": cell(3, 3, "1e400")},
        {},
        "timestamp: expected finite numbers, got 1 i",
    ),
    (
        "one time",
        {"inter": column(3, lambda i, c: "0")},
        {},
        "240 rows have 1 distinct time stamps",
    ),
    (
        "label yes",
        {"inter": cell(3, 2, "yes")},
        {},
        "label: expected numbers, got 'yes' (1 such row",
    ),
    (
        "label true",
        {"inter": cell(3, 2, "true")},
        {},
        "label: expected numbers, got 'true' (1 such ",
    ),
    (
        "label 2",
        {"inter": cell(3, 2, "2")},
        {},
        "label: expected labels 0 and 1, got 0, 1, 2; see t",
    ),
    (
        "label -1",
        {"inter": cell(3, 2, "-1")},
        {},
        "label: expected labels 0 and 1, got -1, 0, 1; see",
    ),
    (
        "label .5",
        {"inter": cell(3, 2, "0.5")},
        {},
        "label: expected labels 0 and 1, got 0, 0.5, 1; ",
    ),
    ("label missing", {"inter": cell(3, 2, "")}, {}, f"label: {E_ROW}"),
    ("label nan", {"inter": cell(3, 2, "nan")}, {}, f"label: {E_ROW}"),
    (
        "label inf",
        {"inter": cell(3, 2, "inf")},
        {},
        "label: expected finite numbers, got 1 infinite",
    ),
    (
        "all 1",
        {"inter": column(2, lambda i, c: "1")},
        {},
        "expected both classes, got 1 in every ro",
    ),
    (
        "all 0",
        {"inter": column(2, lambda i, c: "0")},
        {},
        "expected both classes, got 0 in every ro",
    ),
    (
        "training all 0",
        {"inter": column(2, lambda i, c: "0" if i < 192 else c[2])},
        {},
        "expected both labels in the training part, got 0 in all of its 192 rows",
    ),
    (
        "validation all 0",
        {"inter": column(2, lambda i, c: "0" if 192 <= i < 216 else c[2])},
        {},
        "expected both labels in the validation part, got 0 in all of its 24 rows",
    ),
    (
        "test all 1",
        {"inter": column(2, lambda i, c: "1" if i >= 216 else c[2])},
        {},
        "expected both labels in the test part, got 1 in all of its 24 rows",
    ),
    (
        "no user with both",
        {"inter": column(2, lambda i, c: str(int(c[0] > "u4")) if i >= 192 else c[2])},
        {},
        "expected a user with both labels in the validation part for GAUC, got none",
    ),
    ("no test rows", {}, {"eval_args.split": "{RS: [8,2,0]}"}, "the test part has no rows"),
    (
        "threshold too high",
        {},
        {"threshold": "{price: 99}", "context_fields": "[place]"},
        "both sides",
    ),
    (
        "threshold too low",
        {},
        {"threshold": "{price: -9}", "context_fields": "[place]"},
        "both sides",
    ),
    (
        "age text",
        {"user": USERS.replace("\t21\t", "\told\t", 1)},
        {},
        "age: expected numbers, got 'old'",
    ),
    (
        "age inf",
        {"user": USERS.replace("\t21\t", "\tinf\t", 1)},
        {},
        "age: expected finite numbers, go",
    ),
    (
        "price inf",
        {"inter": cell(5, 5, "-inf")},
        {},
        "price: expected finite numbers, got 1 infinite",
    ),
    (
        "price 1e39",
        {"inter": cell(5, 5, "1e39")},
        {},
        "price: expected finite numbers, got 1 infinite",
    ),
    (
        "price text",
        {"inter": cell(5, 5, "x")},
        {},
        "price: expected numbers, got 'x' (1 such rows)",
    ),
    (
        "no price",
        {"inter": column(5, lambda i, c: "")},
        {},
        "got 240 of 240 without; take it out of",
    ),
    (
        "few fields",
        {"inter": WHOLE + "u1\ti1\n"},
        {},
        "expected 6 fields in each row, got 2 in 'u1",
    ),
    (
        "many fields",
        {"inter": WHOLE + "u1\ti1\t1\t5\tp\t1\t1\n"},
        {},
        "expected 6 fields in each row, ",
    ),
    ("broken off", {"inter": WHOLE[:-12]}, {}, "expected 6 fields in each row, got 4"),
    (
        "NUL",
        {"inter": cell(5, 0, "u\x001")},
        {},
        "user_id: expected text, got a NUL in it: the file",
    ),
    (
        "gzip",
        {"inter": b"\x1f\x8b\x08\x00" + bytes(99)},
        {},
        "header: expected text in utf-8; set enc",
    ),
    (
        "png",
        {"inter": b"\x89PNG\r\n\x1a\n" + bytes(99)},
        {},
        "header: expected text in utf-8; set enco",
    ),
    ("parquet", {"inter": b"PAR1" + bytes(50)}, {}, "header: expected text in utf-8, got NUL; set"),
    ("json", {"inter": '{"a": 1}\n'}, {}, "name:type with a type of token, token_seq, float"),
    (
        "html",
        {"inter": "<!DOCTYPE html>\n<html>\n"},
        {},
        "got '<!DOCTYPE html>' (field_separator is",
    ),
    ("no such history", {}, {"history_file": "past"}, "small.past: no such file in "),
    ("no such part", {}, {"benchmark_filename": "[a,b,c]"}, "small.a.inter: no such file in "),
    (
        "no such feature file",
        {},
        {"additional_feat_suffix": "[emb]"},
        "small.emb: no such file in ",
    ),
    ("no title", {}, {"title_field": "name"}, "small.item: expected the columns name, got item_id"),
    (
        "history without a time",
        {"past": "user_id:token\titem_id:token\nu1\ti1\n"},
        {"history_file": "past"},
        "small.past: expected the columns timestamp, got user_id, item_id",
    ),
    (
        "history in ms",
        {"past": "user_id:token\titem_id:token\ttimestamp:float\nu1\ti1\t1600000000000\n"},
        {"history_file": "past"},
        "small.past, timestamp: expected s, got times up to 1.6e+12, which look like ms",
    ),
]


@pytest.mark.parametrize(
    ("name", "files", "keys", "message"), REFUSED, ids=[case[0] for case in REFUSED]
)
def test_a_bad_file_is_one_line(
    run_small: Door, tmp_path: Path, name: str, files: Files, keys: dict[str, str], message: str
) -> None:
    write_dataset(tmp_path, **files)
    assert message in run_small(**keys).line


TOLD: list[tuple[str, Files, dict[str, str], str]] = [
    (
        "year 3000",
        {"inter": column(3, lambda i, c: str(int(c[3]) + 31 * 10**9))},
        {},
        "the year 3003",
    ),
    ("year 87", {"inter": column(3, lambda i, c: str(int(c[3]) - 61 * 10**9))}, {}, "the year 87"),
    ("a stamp of 0", {"inter": cell(3, 3, "0")}, {}, "times go from the year 1970 to 2020"),
    (
        "age nan",
        {"user": USERS.replace("\t21\t", "\tnan\t", 1)},
        {},
        "age: expected a number in every",
    ),
    ("price missing", {"inter": cell(5, 5, "")}, {}, f"price: {E_ROW}"),
    (
        "id by case",
        {"inter": cell(5, 0, "U1"), "user": USERS + "U1\t1\tc1\n"},
        {},
        "1 ids differ from another by case or blanks alone, such as 'U1' and 'u1'",
    ),
    (
        "id by a blank",
        {"inter": cell(5, 0, "u1 "), "user": USERS + "u1 \t1\tc1\n"},
        {},
        "such as 'u1' and 'u1 '",
    ),
]


@pytest.mark.parametrize(("name", "files", "keys", "message"), TOLD, ids=[case[0] for case in TOLD])
def test_what_may_be_meant_is_told(
    run_small: Door, tmp_path: Path, name: str, files: Files, keys: dict[str, str], message: str
) -> None:
    write_dataset(tmp_path, **files)
    answer = run_small(**keys)
    assert answer.code == 0
    warnings = [x for x in answer.err.splitlines() if "small." in x]
    assert any(message in x for x in warnings)


def dataset_of(folder: Path, **keys: object) -> object:
    config = ChoirConfig(
        "Base",
        "small",
        config_dict={
            "data_path": str(folder / "data"),
            "load_col": {
                "inter": ["user_id", "item_id", "label", "timestamp", "place", "price"],
                "user": ["user_id", "age", "city"],
                "item": ["item_id", "category", "maker"],
            },
            "context_fields": ["place", "price"],
            **keys,
        },
    )
    dataset = create_dataset(config)
    dataset.build()
    return dataset


NOT_MISSING = ["nan", "NA", "null", "None", "NaN", "N/A", "#N/A", "n/a", "-nan", "<NA>", "NULL"]


@pytest.mark.parametrize("name", NOT_MISSING)
def test_ids_that_look_missing_are_ids(tmp_path: Path, name: str) -> None:
    out = rows()
    out[5][0], out[6][1] = name, name
    write_dataset(
        tmp_path,
        inter=text_of(out),
        user=USERS + f"{name}\t20\tc1\n",
        item=ITEMS + f"{name}\tk1\tm1\n",
    )
    dataset = dataset_of(tmp_path)
    assert sum(dataset.split_sizes().values()) == 240  # type: ignore[attr-defined]
    assert name in dataset.field2token_id["user_id"]  # type: ignore[attr-defined]
    assert name in dataset.field2token_id["item_id"]  # type: ignore[attr-defined]


AS_THEY_ARE: list[tuple[str, Files, dict[str, object]]] = [
    ("marked", {s: b"\xef\xbb\xbf" + t.encode() for s, t in
                (("inter", WHOLE), ("user", USERS), ("item", ITEMS))}, {"encoding": "utf-8-sig"}),
    ("utf-16", {s: t.encode("utf-16") for s, t in
                (("inter", WHOLE), ("user", USERS), ("item", ITEMS))}, {"encoding": "utf-16"}),
    ("latin-1", {"inter": WHOLE.replace("p1", "é").encode("latin-1")}, {"encoding": "latin-1"}),
    ("ms", {"inter": column(3, lambda i, c: c[3] + "000")}, {"time_unit": "ms"}),
    ("us", {"inter": column(3, lambda i, c: c[3] + "0" * 6)}, {"time_unit": "us"}),
    ("ns", {"inter": column(3, lambda i, c: c[3] + "0" * 9)}, {"time_unit": "ns"}),
    ("CRLF", {"inter": WHOLE.replace("\n", "\r\n")}, {}),
    ("blank lines", {"inter": WHOLE + "\n\n"}, {}),
    ("a quote inside", {"inter": cell(5, 4, 'p"1')}, {}),
    ("closed quotes", {"inter": cell(5, 4, '"p\t1"')}, {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "files", "keys"), AS_THEY_ARE, ids=[case[0] for case in AS_THEY_ARE]
)
def test_what_is_declared_is_read(
    tmp_path: Path, name: str, files: Files, keys: dict[str, object]
) -> None:
    write_dataset(tmp_path, **files)
    dataset = dataset_of(tmp_path, **keys)
    events = dataset.row_inputs.events  # type: ignore[attr-defined]
    assert events.time.tolist() == [float(c[3]) for c in rows()]
    assert events.label.tolist() == [float(c[2]) for c in rows()]
    users = dataset.field2id_token["user_id"]  # type: ignore[attr-defined]
    assert [users[u] for u in events.user] == [c[0] for c in rows()]


@given(
    st.integers(0, 239),
    st.integers(0, 5),
    st.text(st.characters(exclude_characters="\r\n", exclude_categories=("Cs",)), max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_any_cell_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, row: int, number: int, value: str
) -> None:
    folder = tmp_path_factory.mktemp("cell")
    write_dataset(folder, inter=cell(row, number, value))
    logging.disable(logging.WARNING)
    said = ""
    try:
        dataset_of(folder, filter_inter_by_user_or_item=False)
    except ChoirError as error:
        said = str(error)
    finally:
        logging.disable(logging.NOTSET)
    assert "\n" not in said


def test_check_prints_them_all(door: Door, tmp_path: Path) -> None:
    write_dataset(tmp_path, inter=cell(3, 2, "2"), user=USERS + "u1\t50\tc2\n")
    words = [
        "--load_col.inter=[user_id,item_id,label,timestamp]",
        f"--data_path={tmp_path / 'data'}",
    ]
    answer = door("check", "small", *words, "--load_col.user=[user_id,age,city]")
    assert answer.code == 1
    assert "small.inter" in answer.out
    assert "small.user" in answer.out
