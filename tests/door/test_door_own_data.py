"""Files of one's own: mappings and files of every bad kind, each refused in one line."""

# ruff: noqa: E501  a case a line

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_dataset import ITEMS, USERS, Answer, Door, rows

Cells = list[str]
MAPPING = """
folder: .
interactions: {files: clicks.csv, user: who, item: what, time: when, label: bought, context: [device], query: asked}
users: {files: users.csv, id: who, attributes: [age]}
items: {files: items.csv, id: what, attributes: [maker], text: [name], category: kind}
"""
HEAD = "who,what,bought,when,device,asked\n"


def clicks(change: Callable[[int, Cells], None] = lambda i, c: None) -> str:
    lines = []
    for i, row in enumerate(rows()):
        cells = [*row[:5], "red shoes"]
        change(i, cells)
        lines.append(",".join(cells))
    return HEAD + "\n".join(lines) + "\n"


def every(column: int, value: Callable[[Cells], str]) -> str:
    return clicks(lambda i, c: c.__setitem__(column, value(c)))


def one(column: int, value: str) -> str:
    return clicks(lambda i, c: c.__setitem__(column, value) if i == 3 else None)


def ask_own(
    door: Door, folder: Path, content: object, files: dict[str, str | bytes] | None = None
) -> Answer:
    users = ["who,age,town", *(x.replace("\t", ",") for x in USERS.splitlines()[1:])]
    items = [
        "what,kind,maker,name",
        *(f"{x},Thing".replace("\t", ",") for x in ITEMS.splitlines()[1:]),
    ]
    written: dict[str, str | bytes] = {
        "clicks.csv": clicks(),
        "users.csv": "\n".join(users) + "\n",
        "items.csv": "\n".join(items) + "\n",
        "mine.yaml": yaml.safe_dump({"own_data": content}),
        **(files or {}),
    }
    for name, text in written.items():
        (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    words = {"raw_data_path": folder, "data_path": folder / "data", "record_dir": folder / "r"}
    words |= {"checkpoint_dir": folder / "c", "epochs": 1, "model": "Base", "dataset": "mine"}
    answer: Answer = door("--config_files=mine.yaml", *(f"--{k}={v}" for k, v in words.items()))
    return answer


ONLY = {"seed": 1}
#: Path in the mapping, what stands there ("-": nothing), and the line.
MAPPINGS: list[tuple[str, Any, str]] = [
    ("interactions", "-", "own_data: expected a section 'interactions', got folder, items, users"),
    ("interactions", 7, "own_data.interactions: expected a section with files, user, item"),
    ("interactions", None, "own_data.interactions: expected a section with files, user, item"),
    ("usrs", {}, "own_data: no key 'usrs' (did you mean 'users'?)"),
    (
        "interactions.user",
        "-",
        "own_data.interactions.user: missing, expected the name of a column",
    ),
    (
        "interactions.item",
        "-",
        "own_data.interactions.item: missing, expected the name of a column",
    ),
    ("interactions.time", "-", "own_data.interactions.time: expected a column; without an order"),
    ("interactions.files", "-", "own_data.interactions.files: missing, expected a file"),
    ("interactions.label", "-", "own_data: every row is a positive; expected interactions.label"),
    ("interactions.usr", "who", "own_data.interactions: no key 'usr' (did you mean 'user'?)"),
    ("interactions.user", 7, "own_data.interactions.user: expected a text, got 7"),
    ("interactions.user", ["who"], "own_data.interactions.user: expected a text, got ['who']"),
    ("interactions.user", "whom", "no column 'whom' in clicks.csv (did you mean 'who'?)"),
    ("interactions.time", "wen", "no column 'wen' in clicks.csv (did you mean 'when'?)"),
    ("interactions.label", "bougt", "no column 'bougt' in clicks.csv (did you mean 'bought'?)"),
    (
        "interactions.context",
        ["devise"],
        "no column 'devise' in clicks.csv (did you mean 'device'?)",
    ),
    ("interactions.files", "click.csv", "no file 'click.csv' in "),
    ("interactions.files", "x*.csv", "no file 'x*.csv' in "),
    (
        "interactions.files",
        "/etc/passwd",
        "expected a name inside own_data.folder, got '/etc/passwd'",
    ),
    ("interactions.files", "~/x.csv", "expected a name inside own_data.folder, got '~/x.csv'"),
    ("interactions.files", [[1]], "own_data.interactions.files: expected a list of texts"),
    ("interactions.files", 7, "own_data.interactions.files: expected a list of texts, got 7"),
    (
        "interactions.time",
        {"column": "when", "unit": "weeks"},
        "time.unit: expected one of s, ms, us",
    ),
    (
        "interactions.time",
        {"column": "when", "unit": "s", "format": "%Y"},
        "unit (of a number) or format",
    ),
    ("interactions.time", {"colum": "when"}, "own_data.interactions.time: no key 'colum' (did you"),
    (
        "interactions.time",
        {"column": "when", "format": "%d/%m/%Y"},
        "expected a text of the form %d/%m",
    ),
    ("interactions.time", {"column": "when", "format": "%d/%m"}, "every time would lie in 1900"),
    ("interactions.time", 7, "own_data.interactions.time: expected a section with column, unit"),
    (
        "interactions.label",
        {"column": "bought", "at_least": "x"},
        "label.at_least: expected a number",
    ),
    (
        "interactions.label",
        {"column": "bought", "at_lest": 4},
        "label: no key 'at_lest' (did you mean",
    ),
    (
        "interactions.label",
        7,
        "own_data.interactions.label: expected a section with column, at_least",
    ),
    (
        "interactions.action",
        {"column": "device", "positive": ["p1"]},
        "expected label or action, got both",
    ),
    (
        "interactions.context",
        [{"column": "device", "type": "int"}],
        "context.type: expected one of token",
    ),
    (
        "interactions.context",
        [{"column": "device", "type": "float"}],
        "column 'device': expected a number, got 'p",
    ),
    ("interactions.context", [{"column": "device", "as": "label"}], "field 'label' cannot be used"),
    (
        "interactions.context",
        [{"column": "device", "as": "timestamp"}],
        "field 'timestamp' cannot be used",
    ),
    ("interactions.context", [{"column": "device", "as": "a b"}], "field 'a b' cannot be used"),
    ("interactions.context", [{"column": "device", "as": "a:b"}], "field 'a:b' cannot be used"),
    (
        "interactions.context",
        ["device", {"column": "asked", "as": "device"}],
        "field 'device' has two columns",
    ),
    ("interactions.context", 7, "own_data.interactions.context: expected a list of columns, got 7"),
    (
        "interactions.context",
        [["a"]],
        "own_data.interactions.context: expected a section with column",
    ),
    (
        "interactions.context",
        [{"column": "device", "type": "float", "separator": ","}],
        "only a list has one",
    ),
    ("interactions.query", ["asked", "device"], "own_data.interactions.query: expected a section"),
    ("folder", "nosuch", "the folder is empty or missing"),
    ("folder", 7, "own_data.folder: expected a text, got 7"),
    ("users", 7, "own_data.users: expected a section with files, id, attributes, got 7"),
    ("users.id", "-", "own_data.users.id: missing, expected the name of a column"),
    ("users.id", "whoo", "no column 'whoo' in users.csv (did you mean 'who'?)"),
    ("users.attributes", ["agge"], "no column 'agge' in users.csv (did you mean 'age'?)"),
    ("users.text", ["town"], "own_data.users: no key 'text'"),
    (
        "items.category",
        {"column": "kind", "type": "float"},
        "category: expected type token or list",
    ),
    ("items.text", ["nam"], "no column 'nam' in items.csv (did you mean 'name'?)"),
    ("negatives", ONLY, "own_data.negatives: the labels are in the files, expected no section"),
    ("csv", {"separator": "ab"}, "own_data.csv.separator: expected one character, got 'ab'"),
    ("csv", {"separator": ""}, "own_data.csv.separator: expected a text, got ''"),
    ("csv", {"separator": ";"}, "no column 'who' in clicks.csv, it has who,what,bought"),
    ("csv", {"encoding": "utf-99"}, "own_data.csv.encoding: no encoding named 'utf-99'"),
    ("csv", {"sep": ";"}, "own_data.csv: no key 'sep', expected any of separator, encoding"),
    ("csv", 7, "own_data.csv: expected a section with separator, encoding, got 7"),
    ("missing", 7, "own_data.missing: expected a list of texts, got 7"),
    ("missing", [{}], "own_data.missing: expected a list of texts, got {} in it"),
]


@pytest.mark.parametrize(
    ("path", "value", "message"), MAPPINGS, ids=[f"{p}={v}" for p, v, _ in MAPPINGS]
)
def test_a_wrong_mapping_is_one_line(
    door: Door, tmp_path: Path, path: str, value: object, message: str
) -> None:
    content = yaml.safe_load(MAPPING)
    node, keys = content, path.split(".")
    for key in keys[:-1]:
        node = node[key]
    node.pop(keys[-1], None)
    if value != "-":
        node[keys[-1]] = value
    assert message in ask_own(door, tmp_path, content).line


@pytest.mark.parametrize("content", [7, [1], "text", {}, True])
def test_what_is_no_mapping_is_one_line(door: Door, tmp_path: Path, content: object) -> None:
    assert "own_data: expected a section" in ask_own(door, tmp_path, content).line


NEGATIVES: list[tuple[dict[str, Any], str]] = [
    ({"nosuch": 1}, "own_data.negatives: no key 'nosuch'"),
    ({"negatives": "zipf"}, "option 'negatives': expected uniform or popularity, got 'zipf'"),
    ({"seed": -1}, "option 'seed': expected 0 or more, got -1"),
]


@pytest.mark.parametrize(("options", "message"), NEGATIVES)
def test_wrong_negatives_are_one_line(
    door: Door, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    content = yaml.safe_load(MAPPING)
    del content["interactions"]["label"]
    content["negatives"] = options
    assert message in ask_own(door, tmp_path, content).line


FILES: list[tuple[str, dict[str, str | bytes], str]] = [
    ("empty", {"clicks.csv": ""}, "clicks.csv: is empty, expected a first line with the names"),
    ("users empty", {"users.csv": ""}, "users.csv: is empty, expected a first line with the names"),
    ("a head alone", {"clicks.csv": HEAD}, "no interactions found for 'mine'"),
    (
        "latin-1",
        {"clicks.csv": every(5, lambda c: "é").encode("latin-1")},
        "say csv: {encoding: latin-1}",
    ),
    (
        "utf-16",
        {"clicks.csv": clicks().encode("utf-16")},
        "clicks.csv: cannot be read as utf-8-sig text",
    ),
    ("a lone quote", {"clicks.csv": one(0, '"u1')}, "is a quote not closed?"),
    (
        "short rows",
        {"clicks.csv": clicks(lambda i, c: c.__delitem__(slice(2, None)))},
        "240 of 240 rows are bad",
    ),
    (
        "a column twice",
        {"clicks.csv": clicks().replace("device", "who", 1)},
        "column 'who' is there twice",
    ),
    (
        "label yes",
        {"clicks.csv": every(2, lambda c: "yes")},
        "got 'yes'; texts need action: {column: bought",
    ),
    (
        "label 2",
        {"clicks.csv": one(2, "2")},
        "got '2'; a rating needs label: {column: bought, at_least: 4}",
    ),
    (
        "label missing",
        {"clicks.csv": every(2, lambda c: "")},
        "expected 0 and 1 (or true and false), got ''",
    ),
    (
        "all bought",
        {"clicks.csv": every(2, lambda c: "1")},
        "expected both classes, got 1 in every row",
    ),
    (
        "time soon",
        {"clicks.csv": every(3, lambda c: "soon")},
        "expected a number or 2024-01-31 12:00, got 'soon'",
    ),
    (
        "time ms",
        {"clicks.csv": every(3, lambda c: c[3] + "000")},
        "expected seconds, got 1600014340000; say",
    ),
    (
        "time without a year",
        {"clicks.csv": every(3, lambda c: "01/02")},
        "2024-01-31 12:00, got '01/02'; say",
    ),
    (
        "no ids",
        {"clicks.csv": every(0, lambda c: "")},
        "240 of 240 rows are bad (240 empty or too few",
    ),
    (
        "one user twice",
        {"users.csv": "who,age\nu1,3\nu1,4\n"},
        "user id 'u1' has more than one row",
    ),
    ("no parquet", {"clicks.parquet": b"PAR1xxxx"}, "clicks.parquet: cannot be read as Parquet"),
    (
        "no gzip",
        {"c.csv.gz": b"\x1f\x8b\x08\x00xxxxxxxxxxxx"},
        "c.csv.gz: cannot be read as utf-8-sig text",
    ),
    (
        "no gzip at all",
        {"c.csv.gz": b"hello"},
        "c.csv.gz: cannot be read as utf-8-sig text: Not a gzipped",
    ),
    (
        "no zip",
        {"c.csv.zip": b"PK\x03\x04xx"},
        "c.csv.zip: cannot be read as utf-8-sig text: File is not",
    ),
    ("no xz", {"c.csv.xz": b"\xfd7zXZ\x00xxxxxxxx"}, "c.csv.xz: cannot be read as utf-8-sig text"),
    ("no bz2", {"c.csv.bz2": b"BZh9xxxxxxxxxxxx"}, "c.csv.bz2: cannot be read as utf-8-sig text"),
]


@pytest.mark.parametrize(("name", "files", "message"), FILES, ids=[f[0] for f in FILES])
def test_a_bad_file_of_ones_own_is_one_line(
    door: Door, tmp_path: Path, name: str, files: dict[str, str | bytes], message: str
) -> None:
    content = yaml.safe_load(MAPPING)
    (first,) = files
    if first.startswith("c.csv"):
        content["interactions"]["files"] = "c.csv"
    elif first.endswith(".parquet"):
        content["interactions"]["files"] = first
    assert message in ask_own(door, tmp_path, content, files).line
