"""Bring your own: mappings, messages, CSV and Parquet files, labels, actions and negatives."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recbole_choir.dataset_adapters import OwnData
from recbole_choir.errors import DataError

CLICKS = (
    "customer,sku,when,bought,device,asked\n"
    "c1,s1,2024-01-31 12:00:00,1,phone,Red  SHOES\n"
    'c1,s2,2024-01-31 12:00:00.5,0,phone,"a ""b"" | c"\n'
    "c2,s1,2024-02-01,true,,\n"
)
USERS = 'id,age,member,income\nc1,,gold,50.5\nc2,"30,\n40",,\n'
ITEMS = "sku,name,about,path,price\ns1,Boot,warm & dry,Shoes > Boots ,9\ns2,,,Shoes>Sand|als>,\n"


def write(folder: Path, **texts: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    files = {"clicks.csv": CLICKS, "users.csv": USERS, "items.csv": ITEMS, **texts}
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def mapping(**changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "interactions": {
            "files": "clicks.csv",
            "user": "customer",
            "item": "sku",
            "time": "when",
            "label": "bought",
            "context": ["device"],
            "query": "asked",
        },
        "users": {
            "files": "users.csv",
            "id": "id",
            "attributes": [
                "age",
                {"column": "member", "as": "club"},
                {"column": "income", "type": "float"},
            ],
        },
        "items": {
            "files": "items.csv",
            "id": "sku",
            "attributes": [{"column": "price", "type": "float"}],
            "text": ["name", "about"],
            "category": {"column": "path", "separator": ">"},
        },
    }
    for key, value in changes.items():
        if value is None:
            content.pop(key)
        elif isinstance(value, dict) and key in content:
            section = {**content[key], **value}
            content[key] = {k: v for k, v in section.items() if v is not None}
        else:
            content[key] = value
    return content


def convert(raw: Path, out: Path, **changes: Any) -> Path:
    return OwnData("mine", mapping(**changes)).convert(raw, out / "mine")


def lines(out: Path, suffix: str = "inter") -> list[str]:
    return (out / f"mine.{suffix}").read_text().splitlines()


def test_atomic_files_are_exact(tmp_path: Path) -> None:
    out = convert(write(tmp_path / "raw"), tmp_path)
    assert lines(out) == [
        "user_id:token\titem_id:token\tlabel:float\ttimestamp:float\tdevice:token\tasked:token_seq",
        "c1\ts1\t1\t1706702400.0\tphone\tred|shoes",
        "c1\ts2\t0\t1706702400.5\tphone\ta|'b'|/|c",
        "c2\ts1\t1\t1706745600.0\t\t",
    ]
    assert lines(out, "user") == [
        "user_id:token\tage:token\tclub:token\tincome:float",
        "c1\t\tgold\t50.5",
        "c2\t30, 40\t\t",
    ]
    assert lines(out, "item") == [
        "item_id:token\ttitle:token_seq\tprice:float\tpath:token_seq",
        "s1\tBoot warm & dry\t9.0\tShoes|Boots",
        "s2\t\t\tShoes|Sand/als",
    ]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["negatives"] is None
    assert manifest["counts"]["interactions"] == 3
    assert manifest["settings"]["own_data"] == mapping()


def test_keys_of_the_run_follow_from_the_mapping() -> None:
    assert OwnData("mine", mapping()).mapping.config() == {
        "field_separator": "\t",
        "seq_separator": "|",
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "TIME_FIELD": "timestamp",
        "LABEL_FIELD": "label",
        "load_col": {
            "inter": ["user_id", "item_id", "label", "timestamp", "device", "asked"],
            "user": ["user_id", "age", "club", "income"],
            "item": ["item_id", "price", "path"],
        },
        "context_fields": ["device", "asked"],
        "user_attr_fields": ["age", "club", "income"],
        "item_attr_fields": ["price"],
        "category_field": "path",
        "title_field": "title",
    }
    least = OwnData("mine", mapping(users=None, items=None)).mapping.config()
    assert "user" not in least["load_col"]
    assert least["user_attr_fields"] == least["item_attr_fields"] == []
    assert "title_field" not in least


def test_a_category_may_be_an_attribute_too() -> None:
    changed = mapping(items={"attributes": ["path"]})
    config = OwnData("mine", changed).mapping.config()
    assert config["item_attr_fields"] == ["path"]
    assert config["load_col"]["item"] == ["item_id", "path"]


def test_parquet_gives_the_same_as_csv_and_keeps_whole_numbers(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw")
    table = pa.table(
        {
            "customer": pa.array([10_000_000_000_000_001, 2, None], pa.int64()),
            "sku": pa.array(["s1", "s2", "s1"]).dictionary_encode(),
            "when": pa.array([1706702400, 1706702401, 1706702402], pa.int64()),
            "bought": pa.array([True, False, True]),
            "tags": pa.array([["x y", "z"], None, []], pa.list_(pa.string())),
        }
    )
    pq.write_table(table, raw / "a.parquet")
    pq.write_table(table.slice(0, 2), raw / "b.parquet")
    rows = {
        "files": "?.parquet",
        "context": [{"column": "tags", "type": "list", "separator": "|"}],
        "query": None,
    }
    adapter = OwnData("mine", mapping(users=None, interactions=rows))
    with pytest.raises(DataError, match=r"1 of 3 rows are bad"):
        adapter.convert(raw, tmp_path / "mine")
    pq.write_table(table.slice(0, 2), raw / "a.parquet")
    out = adapter.convert(raw, tmp_path / "mine")
    assert lines(out)[1:] == 2 * [
        "10000000000000001\ts1\t1\t1706702400.0\tx y|z",
        "2\ts2\t0\t1706702401.0\t",
    ]


def test_patterns_and_compressed_files_are_read_in_the_order_of_names(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw")
    head = CLICKS.splitlines()[0]
    for number in (2, 1):
        text = f"{head}\nc{number},s1,2024-01-0{number},1,,\n"
        (raw / f"part-{number}.csv.gz").write_bytes(gzip.compress(text.encode()))
    out = convert(raw, tmp_path, interactions={"files": "part-*.csv"})
    assert [line.split("\t")[0] for line in lines(out)[1:]] == ["c1", "c2"]


def test_a_folder_of_its_own_and_new_files_are_seen(tmp_path: Path) -> None:
    raw = write(tmp_path / "data")
    adapter = OwnData("mine", mapping(folder="data"))
    out = adapter.convert(tmp_path, tmp_path / "mine")
    before = out.stat().st_ino
    assert adapter.convert(tmp_path, out).stat().st_ino == before
    (raw / "clicks.csv").write_text(CLICKS + "c2,s2,2024-02-02,0,,\n")
    assert len(lines(adapter.convert(tmp_path, out))) == 5
    other = OwnData("mine", mapping(folder="data", interactions={"context": None}))
    assert "device" not in lines(other.convert(tmp_path, out))[0]


@pytest.mark.parametrize(
    ("time", "values", "expected"),
    [
        ("when", ("1706702400", "1706702400.25", "1"), (1706702400.0, 1706702400.25, 1.0)),
        ({"column": "when", "unit": "ms"}, ("1706702400500", "0", "1"), (1706702400.5, 0.0, 0.001)),
        ({"column": "when", "unit": "d"}, ("2", "0.5", "0"), (172800.0, 43200.0, 0.0)),
        (
            "when",
            ("2024-01-31T12:00:00+01:00", "2024-01-31", "1970-01-01"),
            (1706698800.0, 1706659200.0, 0.0),
        ),
        (
            {"column": "when", "format": "%d/%m/%Y"},
            ("31/01/2024", "01/02/2024", "01/01/1970"),
            (1706659200.0, 1706745600.0, 0.0),
        ),
    ],
)
def test_times(
    tmp_path: Path, time: Any, values: tuple[str, ...], expected: tuple[float, ...]
) -> None:
    text = "customer,sku,when,bought\n" + "".join(f"c,s,{v},1\n" for v in values)
    rows = {"time": time, "context": None, "query": None}
    raw = write(tmp_path / "raw", **{"clicks.csv": text})
    out = convert(raw, tmp_path, interactions=rows, users=None, items=None)
    assert tuple(float(line.split("\t")[3]) for line in lines(out)[1:]) == expected


def test_ratings_and_actions_make_labels(tmp_path: Path) -> None:
    text = "customer,sku,when,stars,what\nc,a,1,4,buy\nc,b,2,3.5,view\nc,d,3,5,share\n"
    raw = write(tmp_path / "raw", **{"clicks.csv": text})
    plain = {"context": None, "query": None, "label": None}
    rated = {**plain, "label": {"column": "stars", "at_least": 4}}
    out = convert(raw, tmp_path / "a", interactions=rated, users=None, items=None)
    assert [line.split("\t")[2] for line in lines(out)[1:]] == ["1", "0", "1"]
    acted = {**plain, "action": {"column": "what", "positive": "buy", "negative": ["view"]}}
    out = convert(raw, tmp_path / "b", interactions=acted, users=None, items=None)
    assert [line.split("\t")[1:3] for line in lines(out)[1:]] == [["a", "1"], ["b", "0"]]
    facts = json.loads((out / "manifest.json").read_text())["facts"]
    assert facts == {"rows_of_other_actions": 1}


def test_positives_alone_get_recorded_negatives(tmp_path: Path) -> None:
    text = "customer,sku,when,what,device\n" + "".join(
        f"c{u},s{(u * t) % 7},{t},buy,d{u}\n" for t in range(12) for u in range(8)
    )
    items = "sku,name,about,path,price\n" + "".join(f"s{k},,,x,1\n" for k in range(30))
    raw = write(tmp_path / "raw", **{"clicks.csv": text, "items.csv": items})
    action = {"column": "what", "positive": ["buy"]}
    rows = {"label": None, "action": action, "query": None}
    negatives = {"negatives": "uniform", "negatives_per_positive": 2, "seed": 3}
    out = convert(raw, tmp_path, interactions=rows, users=None, negatives=negatives)
    table = pd.read_csv(out / "mine.inter", sep="\t", dtype=str)
    assert table["label:float"].value_counts().to_dict() == {"0": 192, "1": 96}
    assert (table["device:token"] == "d" + table["user_id:token"].str[1:]).all()
    # Items nobody bought are in the catalogue.
    assert table["item_id:token"].nunique() == 30
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["negatives"]["kind"] == "uniform"
    assert manifest["negatives"]["seed"] == 3


def test_bad_rows_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = "".join(f"c{k},s1,{k},1,,\n" for k in range(1000))
    bad = "c1,s1\nc1,s1,5,1,,,,\n,s1,5,1,,\nNULL,s1,5,1,,\n"
    raw = write(tmp_path / "raw", **{"clicks.csv": CLICKS.splitlines()[0] + "\n" + good + bad})
    with caplog.at_level(logging.WARNING):
        out = convert(raw, tmp_path, missing=["NULL"])
    facts = json.loads((out / "manifest.json").read_text())["raw"]["clicks.csv"]
    assert facts["rows"] == 1000
    assert facts["bad_rows"] == {"too many fields": 1, "empty or too few fields": 3}
    assert "4 of 1,004 rows left out" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interactions": None}, r"own_data: expected a section 'interactions'"),
        # the label, the time or an id under another name would be read by models
        (
            {"interactions": {"context": [{"column": "bought", "as": "price"}]}},
            r"interactions: column 'bought' is the label and cannot be context",
        ),
        ({"interactions": {"context": ["when"]}}, r"column 'when' is the time and cannot be"),
        ({"interactions": {"query": "customer"}}, r"column 'customer' is the user and cannot be"),
        ({"interactions": {"context": ["sku"]}}, r"column 'sku' is the item and cannot be"),
        (
            {"interactions": {"context": [{"column": "device", "as": "label"}]}},
            r"field 'label' cannot be used .*; rename it: \{column: device, as: other\}",
        ),
        ({"users": {"attributes": ["id"]}}, r"users: column 'id' is the id and cannot be"),
        ({"items": {"category": "sku"}}, r"items: column 'sku' is the id and cannot be"),
        (
            {"users": {"attributes": [{"column": "age", "as": "timestamp"}]}},
            r"users.attributes: field 'timestamp' cannot be used",
        ),
        ({"interaction": {}}, r"own_data: no key 'interaction' \(did you mean 'interactions'\?\)"),
        (
            {"interactions": {"time": None}},
            r"interactions.time: expected a column; without an order",
        ),
        (
            {"interactions": {"user": None}},
            r"interactions.user: missing, expected the name of a column",
        ),
        ({"interactions": {"user": ["a"]}}, r"interactions.user: expected a text, got \['a'\]"),
        (
            {"interactions": {"files": None}},
            r"interactions.files: missing, expected a file or a pattern",
        ),
        (
            {"interactions": {"time": {"column": "w", "unit": "sec"}}},
            r"time.unit: expected one of s, ms",
        ),
        (
            {"interactions": {"time": {"column": "w", "unit": "s", "format": "%d"}}},
            r"expected unit \(of a number\) or format \(of a text\), got both",
        ),
        ({"interactions": {"action": {"column": "a"}}}, r"expected label or action, got both"),
        (
            {"interactions": {"label": None, "action": {"column": "a", "positive": []}}},
            r"action.positive: expected at least one value such as \[buy\]",
        ),
        (
            {
                "interactions": {
                    "label": None,
                    "action": {"column": "a", "positive": "x", "negative": "x"},
                }
            },
            r"value 'x' is both positive and negative",
        ),
        (
            {"interactions": {"label": {"column": "r", "at_least": "4"}}},
            r"at_least: expected a number such as 4, got '4'",
        ),
        (
            {"interactions": {"label": None}},
            r"every row is a positive; expected interactions.label",
        ),
        ({"negatives": {}}, r"the labels are in the files, expected no section 'negatives'"),
        ({"users": {"attributes": ["user_id"]}}, r"field 'user_id' cannot be used .*as: other"),
        (
            {"users": {"attributes": [{"column": "a", "type": "int"}]}},
            r"type: expected one of token, float, list, words, got 'int'",
        ),
        (
            {"users": {"attributes": [{"column": "a", "type": "float", "separator": ","}]}},
            r"only a list has one",
        ),
        ({"users": {"attributes": ["device"]}}, r"field 'device' has two columns; rename one"),
        ({"users": {"text": "a"}}, r"own_data.users: no key 'text'"),
        (
            {"items": {"category": {"column": "p", "type": "float"}}},
            r"category: expected type token or list",
        ),
        ({"missing": 5}, r"own_data.missing: expected a list of texts, got 5"),
    ],
)
def test_wrong_mappings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        OwnData("mine", mapping(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "files", "message"),
    [
        (
            {"interactions": {"files": "click.csv"}},
            {},
            r"no file 'click.csv' in .*did you mean 'clicks.csv'",
        ),
        (
            {"interactions": {"user": "custom"}},
            {},
            r"no column 'custom' in clicks.csv \(did you mean 'customer'\?\), it has customer",
        ),
        (
            {"items": {"text": ["nam"]}},
            {},
            r"own_data.items.text: no column 'nam' in items.csv \(did you mean 'name'\?\)",
        ),
        (
            {"interactions": {"context": ["devise"]}},
            {},
            r"field devise: no column 'devise' .*did you mean 'device'",
        ),
        (
            {},
            {"clicks.csv": CLICKS.replace(",true,", ",4,")},
            r"expected 0 and 1 \(or true and false\), got '4'; a rating needs label",
        ),
        (
            {},
            {"clicks.csv": CLICKS.replace("2024-02-01", "soon")},
            r"expected a number or 2024-01-31 12:00, got 'soon'",
        ),
        (
            {},
            {"users.csv": USERS.replace("50.5", "much")},
            r"own_data.users: column 'income': expected a number, got 'much'",
        ),
        ({}, {"users.csv": USERS + "c1,1,2,3\n"}, r"user id 'c1' has more than one row"),
        ({}, {"items.csv": ""}, r"items.csv: is empty, expected a first line"),
        ({}, {"items.csv": "sku,sku\n"}, r"column 'sku' is there twice"),
        (
            {
                "interactions": {
                    "label": None,
                    "context": [],
                    "action": {"column": "device", "positive": "fone", "negative": "x"},
                }
            },
            {},
            r"none of fone in column 'device' of clicks.csv \(did you mean 'phone'\?\)",
        ),
    ],
)
def test_wrong_files_are_named(
    tmp_path: Path, changes: dict[str, Any], files: dict[str, str], message: str
) -> None:
    raw = write(tmp_path / "raw", **files)
    with pytest.raises(DataError, match=message) as caught:
        convert(raw, tmp_path, **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "mine").exists()


def test_milliseconds_taken_for_seconds_are_noticed(tmp_path: Path) -> None:
    text = "customer,sku,when,bought\nc,s,1706702400000,1\n"
    raw = write(tmp_path / "raw", **{"clicks.csv": text})
    rows = {"context": None, "query": None}
    with pytest.raises(DataError, match=r"got 1706702400000; say time: \{column: when, unit: ms\}"):
        convert(raw, tmp_path, interactions=rows)


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw")
    (raw / "x.parquet").write_text("no")
    with pytest.raises(DataError, match=r"x.parquet: cannot be read as Parquet"):
        convert(raw, tmp_path, interactions={"files": "x.parquet"})
