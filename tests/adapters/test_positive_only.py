"""Yelp, Amazon, Ta-Feng and Globo: tiny files in the raw formats, then the real ones."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from recbole_choir.dataset_adapters import RawFile, RawFolder, adapters, find_raw, get_adapter
from recbole_choir.errors import DataError
from recbole_choir.paths import properties_dir

YELP_ITEMS = {
    str(k): {"title": f'The "{k}"\tGrill', "description": "Bars ,Coffee & Tea"} for k in range(12)
}


def write_yelp(folder: Path, lines: list[str] | None = None) -> Path:
    folder.mkdir(parents=True)
    found = lines or [
        f"{u} " + " ".join(str((u * 3 + k) % 12 + 1) for k in range(5)) for u in (1, 2, 10)
    ]
    with gzip.open(folder / "sequential_data.txt.gz", "wt") as stream:
        stream.write("\n".join(found) + "\n")
    (folder / "Yelp.item.json").write_text(json.dumps(YELP_ITEMS))
    return folder


def write_amazon(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "Beauty_user_sequence.txt").write_text("A1 B1 B2 B3\nA2 B2 B1\n")
    words = (
        "B1 |\u2581loss|\u2581con|solid\nB2 |\u2581nail|2,000\nB3 |\u2581oil\nB4 |\u2581a|\u2581b\n"
    )
    name = "Beauty_item_generative_indexing_hierarchy_v1_c128_l7_len32768_split.txt"
    (folder / name).write_text(words, encoding="utf-8")
    return folder


TA_FENG = [
    ("11/1/2000", "00000002", "45-49", "115", "110411", "4710", "2", "24", "30"),
    ("11/1/2000", "00000002", "45-49", "115", "120107", "0471", "1", "48", "46"),
    ("11/2/2000", "00000001", "", "Unknown", "110411", "4710", "1", "14", "16"),
    ("11/2/2000", "00000001", "", "Unknown", "110411", "4710", "1", "14", "16"),
    ("2/28/2001", "00000002", "45-49", "115", "500202", "4711", "3", "9", "10"),
]


def write_ta_feng(folder: Path, rows: list[tuple[str, ...]] | None = None) -> Path:
    folder.mkdir(parents=True)
    head = "TRANSACTION_DT,CUSTOMER_ID,AGE_GROUP,PIN_CODE,PRODUCT_SUBCLASS,PRODUCT_ID,AMOUNT,"
    lines = [",".join(f'"{c}"' for c in (head + "ASSET,SALES_PRICE").split(","))]
    lines += [",".join(f'"{c}"' for c in row) for row in rows or TA_FENG]
    path = folder / "ta_feng_all_months_merged.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return folder


GLOBO_HEAD = (
    "user_id,session_id,session_start,session_size,click_article_id,click_timestamp,"
    "click_environment,click_deviceGroup,click_os,click_country,click_region,click_referrer_type"
)
GLOBO = [
    ["0,77,1506825423000,2,157,1506826828020,4,3,20,1,20,2"],
    [],  # one of the official hours holds a header only
    [
        "1,78,1506825426000,2,158,1506827017951,4,1,17,1,16,1",
        "1,78,1506825426000,2,157,1506827017952,4,1,17,1,16,1",
    ],
]


def write_globo(folder: Path, suffix: str = ".xz") -> Path:
    folder.mkdir(parents=True)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        top = tarfile.TarInfo("clicks")
        top.type = tarfile.DIRTYPE
        archive.addfile(top)
        for number, rows in enumerate(GLOBO):
            data = "\n".join([GLOBO_HEAD, *rows, ""]).encode()
            member = tarfile.TarInfo(f"clicks/clicks_hour_{number:03d}.csv")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    content = buffer.getvalue()
    packed = lzma.compress(content) if suffix else content
    (folder / f"clicks.tar{suffix}").write_bytes(packed)
    return folder


def convert(name: str, raw: Path, out: Path, **options: Any) -> Path:
    return get_adapter(name, options).convert(raw, out, verify=False)


def read(out: Path, name: str, suffix: str = "inter") -> pd.DataFrame:
    table = pd.read_csv(out / f"{name}.{suffix}", sep="\t", dtype=str, keep_default_na=False)
    return table.rename(columns=lambda c: c.split(":")[0])


def test_yelp_places_count_from_the_end(tmp_path: Path) -> None:
    raw = write_yelp(tmp_path / "raw", ["1 2 3 2", "2 5 6 7 8 9"])
    rows = read(convert("yelp", raw, tmp_path / "out"), "yelp")
    positives = rows[rows["label"] == "1"].sort_values(
        ["user_id", "timestamp"], key=lambda c: c.astype(int)
    )
    got = list(zip(positives["user_id"], positives["item_id"], positives["timestamp"]))
    assert got == [
        ("1", "2", "-2"),
        ("1", "3", "-1"),
        ("1", "2", "0"),  # a business may be visited again
        *(("2", str(5 + k), str(k - 4)) for k in range(5)),
    ]
    assert rows["timestamp"].astype(int).is_monotonic_increasing
    assert len(rows) == 8 * 6


def test_yelp_items_count_from_one_and_keep_their_words(tmp_path: Path) -> None:
    out = convert("yelp", write_yelp(tmp_path / "raw"), tmp_path / "out")
    items = read(out, "yelp", "item")
    assert items.iloc[0].tolist() == ["1", "The '0' Grill", "Bars|Coffee & Tea"]
    assert items["item_id"].tolist() == [str(k) for k in range(1, 13)]


def test_yelp_popularity_is_that_of_the_training_visits(tmp_path: Path) -> None:
    """Item 9 is visited by all, but last: no negative for anyone, also not in the last rows."""
    lines = [f"{u} {u % 5 + 1} {u % 5 + 2} {u % 5 + 3} 8 9" for u in range(1, 60)]
    raw = write_yelp(tmp_path / "raw", lines)
    options = {"uniform_share": 0.0, "negatives_per_positive": 1}
    out = convert("yelp", raw, tmp_path / "out", **options)
    rows = read(out, "yelp")
    negative = rows[rows["label"] == "0"]
    assert not negative["item_id"].isin(["8", "9"]).any()
    facts = json.loads((out / "manifest.json").read_text())["negatives"]
    assert facts["popularity"] == {
        "of": "all positives up to time -2, a fixed window",
        "uniform_share": 0.0,
    }


def test_thinned_yelp_thins_both_labels_before_validation_alone(tmp_path: Path) -> None:
    lines = [
        f"{u} " + " ".join(str(k) for k in np.random.default_rng(u).permutation(12)[:8] + 1)
        for u in range(200)
    ]
    raw = write_yelp(tmp_path / "raw", lines)
    whole = read(convert("yelp", raw, tmp_path / "a"), "yelp")
    out = convert("yelp-thinned", raw, tmp_path / "b")
    thin = read(out, "yelp-thinned")
    assert json.loads((out / "manifest.json").read_text())["facts"]["thinned_items"] == 6
    late = whole["timestamp"].astype(int) >= -1
    key = ["user_id", "item_id", "timestamp", "label"]
    assert (
        thin[thin["timestamp"].astype(int) >= -1][key].to_numpy() == whole[late][key].to_numpy()
    ).all()
    early, kept = (t[t["timestamp"].astype(int) < -1] for t in (whole, thin))
    share = kept.groupby("item_id").size() / early.groupby("item_id").size()
    assert sorted(share.round(1).tolist())[6:] == [1.0] * 6
    assert share.nsmallest(6).between(0.14, 0.26).all()
    rate = kept[kept["item_id"].isin(share.nsmallest(6).index)]["label"].astype(int).mean()
    assert rate == pytest.approx(1 / 6, abs=0.04)


def test_amazon_words_are_joined_again(tmp_path: Path) -> None:
    out = convert("amazon-2014-beauty", write_amazon(tmp_path / "raw"), tmp_path / "out")
    items = read(out, "amazon-2014-beauty", "item")
    assert items.to_numpy().tolist() == [
        ["B1", "loss consolid", "loss"],
        ["B2", "nail2,000", "nail"],
        ["B3", "oil", "oil"],
        ["B4", "a b", "a"],
    ]
    rows = read(out, "amazon-2014-beauty")
    assert set(rows[rows["user_id"] == "A1"]["timestamp"]) == {"-2", "-1", "0"}


def test_ta_feng_days_codes_and_first_prices(tmp_path: Path) -> None:
    out = convert("ta-feng", write_ta_feng(tmp_path / "raw"), tmp_path / "out")
    rows = read(out, "ta-feng")
    positive = rows[rows["label"] == "1"]
    day = [int(pd.Timestamp(d).timestamp()) for d in ("2000-11-01", "2000-11-02", "2001-02-28")]
    assert list(
        zip(positive["user_id"], positive["item_id"], positive["timestamp"].astype(int))
    ) == [
        ("00000002", "0471", day[0]),
        ("00000002", "4710", day[0]),
        ("00000001", "4710", day[1]),
        ("00000002", "4711", day[2]),
    ]
    users = read(out, "ta-feng", "user").to_numpy().tolist()
    assert users == [["00000001", "", ""], ["00000002", "45-49", "115"]]
    items = read(out, "ta-feng", "item").to_numpy().tolist()
    assert items == [
        ["0471", "120107", "46.0"],
        ["4710", "110411", "15.0"],
        ["4711", "500202", "3.33"],
    ]
    facts = json.loads((out / "manifest.json").read_text())["facts"]
    assert facts["purchases_of_one_product_again_in_a_day"] == 1


@pytest.mark.parametrize("suffix", [".xz", ""])
def test_globo_reads_all_hours_with_their_context(tmp_path: Path, suffix: str) -> None:
    name = "globo-news-clicks"
    out = convert(
        name, write_globo(tmp_path / "raw", suffix), tmp_path / "out", negatives="uniform"
    )
    rows = read(out, name)
    positive = rows[rows["label"] == "1"]
    assert positive["timestamp"].tolist() == ["1506826828.02", "1506827017.951", "1506827017.952"]
    assert positive["item_id"].tolist() == ["157", "158", "157"]
    assert positive.iloc[1].tolist()[4:] == ["78", "4", "1", "17", "1", "16", "1"]
    contexts = ["session_id", "device_group", "referrer_type"]
    assert rows.groupby("timestamp")[contexts].nunique().to_numpy().max() == 1
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["raw"][f"clicks.tar{suffix}"]["rows"] == 3
    assert manifest["facts"]["sessions"] == 2


def test_max_rows_keeps_whole_users_and_the_popularity_of_all(tmp_path: Path) -> None:
    lines = [f"{u} {' '.join(str(k) for k in range(1, 7))}" for u in range(1, 40)]
    raw = write_yelp(tmp_path / "raw", lines)
    out = convert("yelp", raw, tmp_path / "out", max_rows=36 * 5)
    rows = read(out, "yelp")
    assert rows["user_id"].nunique() == 5
    assert (rows[rows["label"] == "1"].groupby("user_id").size() == 6).all()
    facts = json.loads((out / "manifest.json").read_text())["facts"]
    assert facts["positives"] == 30
    assert facts["positives_of_all_users"] == 39 * 6
    with pytest.raises(DataError, match=r"'max_rows': no user fits into 3 rows"):
        convert("yelp", raw, tmp_path / "none", max_rows=3)


def test_a_slice_is_checked_by_the_tables_that_stay_whole() -> None:
    """Its users and items are fewer than the official ones; its files are checked as ever."""
    assert set(get_adapter("yelp")._official()) == {"users", "items", "item_rows"}
    assert get_adapter("yelp", {"max_rows": 100})._official() == {"item_rows": 20_033}
    assert get_adapter("amazon-2014-beauty", {"max_rows": 100})._official() == {}


def test_rows_do_not_depend_on_order_or_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        (f"11/{d}/2000", f"{u:08d}", "25-29", "115", "100101", f"{(u * d) % 17}", "1", "1", "1")
        for d in range(1, 15)
        for u in range(9)
    ]
    one = convert("ta-feng", write_ta_feng(tmp_path / "a", rows), tmp_path / "oa")
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    two = convert("ta-feng", write_ta_feng(tmp_path / "b", shuffled), tmp_path / "ob")
    chunks = RawFolder.chunks
    monkeypatch.setattr(RawFolder, "chunks", lambda self, name: chunks(self, name, 5))
    three = convert("ta-feng", tmp_path / "a", tmp_path / "oc")
    for suffix in ("inter", "user", "item"):
        first = (one / f"ta-feng.{suffix}").read_bytes()
        assert (two / f"ta-feng.{suffix}").read_bytes() == first
        assert (three / f"ta-feng.{suffix}").read_bytes() == first
    label = read(one, "ta-feng")["label"]
    # Rows of a visit are ordered by item: the order says nothing of the label.
    assert label.tolist() != sorted(label, reverse=True)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1 2 99"], r"expected items 1 to 12 \(keys of Yelp.item.json plus 1\), got '99'"),
        (["1"], r"expected a user and items on every line, got '1'"),
        (["1 2", "1 3"], r"expected one line per user"),
    ],
)
def test_wrong_sequences_are_named(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        convert("yelp", write_yelp(tmp_path / "raw", lines), tmp_path / "out")


def test_wrong_json_and_dates_are_named(tmp_path: Path) -> None:
    raw = write_yelp(tmp_path / "raw")
    (raw / "Yelp.item.json").write_text("[1")
    with pytest.raises(DataError, match=r"Yelp.item.json: expected JSON, .*get the file again"):
        convert("yelp", raw, tmp_path / "out")
    (raw / "Yelp.item.json").write_text("[1]")
    with pytest.raises(DataError, match=r"expected an object, got list"):
        convert("yelp", raw, tmp_path / "out")
    rows = [("2000-11-01", *TA_FENG[0][1:])]
    with pytest.raises(DataError, match=r"expected a date such as 11/1/2000, got '2000-11-01'"):
        convert("ta-feng", write_ta_feng(tmp_path / "ta", rows), tmp_path / "out2")


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    raw = write_globo(tmp_path / "raw")
    path = raw / "clicks.tar.xz"
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DataError, match=r"clicks.tar.xz: cannot be read .*get the file again"):
        convert("globo-news-clicks", raw, tmp_path / "out")


def test_tar_of_files_without_header(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, text in (("b.csv", "1,2\n"), ("a.csv", "3,4\n")):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    raw = RawFolder(tmp_path, (RawFile("x.tar", ("a", "b")),), "nowhere")
    assert pd.concat(raw.chunks("x.tar")).to_numpy().tolist() == [["1", "2"], ["3", "4"]]


#: positives, users, items of the official sets; share of rows that the YAML's split leaves to test.
REAL = {
    "yelp": (316_354, 30_431, 20_033),
    "yelp-thinned": (316_354, 30_431, 20_033),
    "ta-feng": (817_741, 32_266, 23_812),
    "globo-news-clicks": (2_988_181, 322_897, 46_033),
    "amazon-2014-beauty": (198_502, 22_363, 12_101),
    "amazon-2014-sports": (296_337, 35_598, 18_357),
    "amazon-2014-toys": (167_597, 19_412, 11_924),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(REAL))
def test_real_files(tmp_path: Path, name: str) -> None:
    place = os.environ.get("RECBOLE_CHOIR_DATA")
    if not place:
        pytest.skip("RECBOLE_CHOIR_DATA is not set: the official files are not here")
    if not any((Path(place) / f).is_dir() for f in adapters()[name].folders):
        pytest.skip(f"RECBOLE_CHOIR_DATA holds no folder of {name}")
    adapter = get_adapter(name)
    out = adapter.convert(find_raw(name), tmp_path / name)
    facts = adapter.facts
    positives, users, items = REAL[name]
    assert facts["positives_of_all_users"] == positives
    assert facts["negatives_missing"] == 0
    rows = read(out, name)
    if name == "ta-feng":
        assert len(read(out, name, "user")) == users
        assert len(read(out, name, "item")) == items
    elif name == "globo-news-clicks":
        assert (facts["users"], facts["articles"], facts["sessions"]) == (users, items, 1_048_594)
    else:
        assert (rows["user_id"].nunique(), rows["item_id"].nunique()) == (users, items)
        place_of = rows["timestamp"].astype(int).clip(lower=-2)
        counts = place_of.value_counts()
        values = yaml.safe_load((properties_dir() / "dataset" / f"{name}.yaml").read_text())
        assert values["eval_args"]["split"]["RS"] == [int(counts[k]) for k in (-2, -1, 0)]
    assert not rows.duplicated(["user_id", "item_id", "timestamp"]).any()
    per_positive = adapter.settings()["negatives_per_positive"]
    assert (rows["label"] == "1").mean() == pytest.approx(1 / (1 + per_positive), abs=0.003)
