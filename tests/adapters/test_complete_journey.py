"""Complete Journey adapter: exposures, negatives and thinning on tiny raw files, then the real."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from recbole_choir.dataset_adapters import Adapter, adapters, find_raw, get_adapter
from recbole_choir.dataset_adapters.__main__ import main
from recbole_choir.errors import DataError
from recbole_choir.paths import properties_dir

HEADS = {
    "transactions": "household_id,store_id,basket_id,product_id,quantity,sales_value,retail_disc,"
    "coupon_disc,coupon_match_disc,week,transaction_timestamp",
    "promotions": "product_id,store_id,display_location,mailer_location,week",
    "products": "product_id,manufacturer_id,department,brand,product_category,product_type,"
    "package_size",
    "demographics": "household_id,age,income,home_ownership,marital_status,household_size,"
    "household_comp,kids_count",
}
# Household 7 buys products 1 (promoted) and 2 (not), household 8 product 3 in the same store.
TRANSACTIONS = [
    "7,300,500,1,1,0.5,0.0,0.0,0.0,10,2017-03-01 10:00:00",
    "7,300,500,2,1,0.5,0.0,0.0,0.0,10,2017-03-01 10:00:00",
    "7,300,500,4,0,0.0,0.0,0.0,0.0,10,2017-03-01 10:00:00",
    "8,300,501,3,2,0.5,0.0,0.0,0.0,10,2017-03-01 10:00:01",
    "8,31000,502,1,1,0.5,0.0,0.0,0.0,11,2017-03-08 10:00:00",
    "7,300,499,6,1,0.5,0.0,0.0,0.0,5,2017-01-25 10:00:00",
]
PROMOTIONS = [
    *(f"{p},300,{'A' if p == 1 else 5},0,10" for p in (1, 3, 4, 5, 6)),
    "1,31000,0,D,11",
    "5,31000,9,A,11",
    "5,31000,0,A,11",
    "6,300,1,0,5",
]
PRODUCTS = [
    *(f'{p},9,GROCERY,National,"FRZN, ICE","ICE ""{p}""",' for p in range(1, 6)),
    "6,9,MISC,Private,,,2 LB",
]
DEMOGRAPHICS = ["8,45-54,50-74K,,Married,2,2 Adults No Kids,0"]


def write_raw(folder: Path, **rows: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tables = {
        "transactions": TRANSACTIONS,
        "promotions": PROMOTIONS,
        "products": PRODUCTS,
        "demographics": DEMOGRAPHICS,
        **rows,
    }
    for name, lines in tables.items():
        (folder / f"{name}.csv").write_text("\n".join([HEADS[name], *lines]) + "\n")
    return folder


def convert(raw: Path, out: Path, name: str = "complete-journey", **options: Any) -> Path:
    return get_adapter(name, options).convert(raw, out, verify=False)


def read(out: Path, suffix: str = "inter", name: str = "complete-journey") -> pd.DataFrame:
    table = pd.read_csv(out / f"{name}.{suffix}", sep="\t", dtype=str, keep_default_na=False)
    return table.rename(columns=lambda c: c.split(":")[0])


def market(seed: int, households: int = 12, products: int = 40) -> dict[str, list[str]]:
    """Random raw tables: 6 weeks from week 9, 2 stores, some baskets of one household at once."""
    rng = np.random.default_rng(seed)
    promotions, transactions = [], []
    for week in range(5, 15):
        for store in (300, 400):
            shown = rng.choice(products, 15, replace=False)
            promotions += [f"{p + 1},{store},{rng.integers(8)},0,{week}" for p in shown]
    for basket in range(120):
        week = int(rng.integers(5, 15))
        stamp = pd.Timestamp("2017-01-01") + pd.Timedelta(days=7 * week, minutes=int(basket // 2))
        home = basket // 2 % households + 1  # two baskets with one stamp
        for p in rng.choice(products, int(rng.integers(1, 9)), replace=False):
            store = (300, 400)[basket % 2]
            transactions.append(f"{home},{store},{basket},{p + 1},1,1,0,0,0,{week},{stamp}")
    listed = [f"{p + 1},1,D,National,C{p % 5},T{p},1 LB" for p in range(products)]
    return {"transactions": transactions, "promotions": promotions, "products": listed}


def test_exposed_purchases_are_positives_and_unbought_exposures_negatives(tmp_path: Path) -> None:
    out = convert(write_raw(tmp_path / "raw"), tmp_path / "out")
    rows = read(out)
    kept = rows.groupby("basket_id", sort=False).apply(
        lambda b: dict(zip(b["item_id"], b["label"])), include_groups=False
    )
    # Five are wanted for each positive; product 4 went into the basket with quantity 0, so it is
    # neither; product 2 was not promoted, so it is no row at all; week 5 lies before week 9.
    assert kept.to_dict() == {
        "500": {"1": "1", "3": "0", "5": "0", "6": "0"},
        "501": {"1": "0", "3": "1", "4": "0", "5": "0", "6": "0"},
        "502": {"1": "1", "5": "0"},
    }
    first = rows.iloc[0]
    assert first["timestamp"] == str(int(pd.Timestamp("2017-03-01 10:00:00").timestamp()))
    assert (first["store_id"], first["week"], first["display_location"]) == (
        "300",
        "10",
        "in-shelf",
    )
    last = rows[rows["basket_id"] == "502"]
    assert last["mailer_location"].tolist() == ["front page feature", "interior page feature"]
    assert last["display_location"].tolist() == ["not on display", "not on display"]


def test_counts_and_negatives_are_in_the_manifest(tmp_path: Path) -> None:
    out = convert(write_raw(tmp_path / "raw"), tmp_path / "out", seed=5)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["facts"] == {
        "purchases": 6,
        "purchases_of_one_product_again_in_a_basket": 0,
        "purchases_of_quantity_zero": 1,
        "purchases_of_unlisted_products": 0,
        "exposed_purchases": 3,
        "exposed_purchases_kept": 3,
        "other_purchases_kept": 2,
        "baskets": 3,
        "negatives": 8,
        "negatives_missing": 7,
        "placements_kept": 7,
        "placements_repeated": 1,
        "placements_of_unlisted_products": 0,
    }
    assert manifest["negatives"]["kind"] == "uniform"
    assert manifest["negatives"]["per_positive"] == 5
    assert manifest["negatives"]["seed"] == manifest["settings"]["seed"] == 5


def test_other_purchases_are_history(tmp_path: Path) -> None:
    out = convert(write_raw(tmp_path / "raw"), tmp_path / "out")
    assert (out / "complete-journey.history").read_text().splitlines() == [
        "user_id:token\titem_id:token\ttimestamp:float",
        f"7\t6\t{int(pd.Timestamp('2017-01-25 10:00:00').timestamp())}",  # before the first week
        f"7\t2\t{int(pd.Timestamp('2017-03-01 10:00:00').timestamp())}",  # was not promoted
    ]


def test_products_and_households_keep_their_gaps(tmp_path: Path) -> None:
    out = convert(write_raw(tmp_path / "raw"), tmp_path / "out")
    items = read(out, "item").set_index("item_id")
    assert items.loc["1"].to_dict() == {
        "title": "ICE '1'",
        "product_type": "ICE '1'",
        "product_category": "FRZN, ICE",
        "department": "GROCERY",
        "brand": "National",
        "manufacturer_id": "9",
        "package_size": "",
    }
    assert items.loc["6", ["title", "product_type", "product_category"]].tolist() == ["", "", ""]
    users = read(out, "user").set_index("user_id")
    assert users.loc["7"].tolist() == [""] * 7
    assert users.loc["8"].tolist() == [
        "45-54",
        "50-74K",
        "",
        "Married",
        "2",
        "2 Adults No Kids",
        "0",
    ]


@pytest.mark.parametrize("kind", ["uniform", "popularity"])
@pytest.mark.parametrize("seed", range(4))
def test_negatives_were_exposed_distinct_and_not_taken_at_that_time(
    tmp_path: Path, kind: str, seed: int
) -> None:
    raw = write_raw(tmp_path / "raw", **market(seed))
    rows = read(convert(raw, tmp_path / "out", negatives=kind, negatives_per_positive=2))
    assert not rows.duplicated(["basket_id", "item_id"]).any()
    placed = {tuple(line.split(",")[i] for i in (0, 1, 4)) for line in market(seed)["promotions"]}
    assert set(zip(rows["item_id"], rows["store_id"], rows["week"])) <= placed
    taken = {
        (v[0], str(int(pd.Timestamp(v[10]).timestamp())), v[3])
        for v in (line.split(",") for line in market(seed)["transactions"])
    }
    is_taken = [t in taken for t in zip(rows["user_id"], rows["timestamp"], rows["item_id"])]
    assert is_taken == (rows["label"] == "1").tolist()
    sizes = rows.groupby("basket_id")["label"].agg(lambda v: (v == "0").sum() / (v == "1").sum())
    assert (sizes <= 2).all()
    assert (sizes == 2).mean() > 0.5


def test_rows_depend_on_the_seed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole_choir.dataset_adapters import RawFolder, complete_journey

    tables = market(3)
    raw = write_raw(tmp_path / "raw", **tables)
    whole = (convert(raw, tmp_path / "a") / "complete-journey.inter").read_bytes()
    shuffled = {
        k: [v[i] for i in np.random.default_rng(0).permutation(len(v))] for k, v in tables.items()
    }
    again = convert(write_raw(tmp_path / "raw2", **shuffled), tmp_path / "b")
    assert (again / "complete-journey.inter").read_bytes() == whole
    assert (again / "complete-journey.item").read_bytes() == (
        tmp_path / "a" / "complete-journey.item"
    ).read_bytes()
    chunks = RawFolder.chunks
    monkeypatch.setattr(RawFolder, "chunks", lambda self, name: chunks(self, name, 7))
    monkeypatch.setattr(complete_journey, "_ROWS", 11)
    assert (convert(raw, tmp_path / "c") / "complete-journey.inter").read_bytes() == whole
    other = convert(raw, tmp_path / "d", seed=1)
    assert (other / "complete-journey.inter").read_bytes() != whole


def test_popularity_knows_only_the_four_weeks_before(tmp_path: Path) -> None:
    """Product 2 is bought often in weeks 6 to 9; rows of week 10 prefer it, week 9 ones do not."""
    promoted = [f"{p},300,1,0,{w}" for p in range(1, 31) for w in (9, 10)]
    listed = [f"{p},1,D,National,C,T,1 LB" for p in range(1, 31)]
    bought = [f"50,300,9{i},2,1,1,0,0,0,9,2017-02-22 10:00:0{i % 10}" for i in range(300)]
    for basket in range(100):
        for week, day in ((9, "2017-02-21"), (10, "2017-03-01")):
            stamp = f"{day} 11:{basket // 60:02d}:{basket % 60:02d}"
            bought.append(f"{basket + 100},300,{week}{basket:04d},1,1,1,0,0,0,{week},{stamp}")
    later = [f"51,300,8{i},3,1,1,0,0,0,10,2017-03-02 10:00:00" for i in range(300)]
    old = [f"51,300,7{i},4,1,1,0,0,0,4,2017-01-18 10:00:00" for i in range(300)]
    options = {"negatives": "popularity", "negatives_per_positive": 1}
    for number, extra in enumerate(([], later, old)):
        raw = write_raw(
            tmp_path / f"raw{number}",
            transactions=bought + extra,
            promotions=promoted,
            products=listed,
        )
        rows = read(convert(raw, tmp_path / f"out{number}", **options))
        negative = rows[(rows["label"] == "0") & ~rows["user_id"].isin(["50", "51"])]
        share = negative.assign(p2=negative["item_id"] == "2").groupby("week")["p2"].mean()
        # 300 of the 300 + 30 - (1 of the basket) shares of weight; at week 9 all weigh the same.
        assert share["10"] > 0.8
        assert share["9"] < 0.15
        for item in ("3", "4"):
            assert (negative["item_id"] == item).mean() < 0.1


def test_thinning_takes_early_weeks_of_the_share_of_households(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", **market(1, households=20))
    every = read(convert(raw, tmp_path / "a"))
    options = {"sparse_households": 0.5, "sparse_weeks": 0.0, "sparse_until": 11}
    out = convert(raw, tmp_path / "b", **options)
    thin = read(out)
    assert json.loads((out / "manifest.json").read_text())["facts"]["sparse_households"] == 10
    week = every["week"].astype(int)
    early = set(every["user_id"][week <= 11])
    left = set(thin["user_id"][thin["week"].astype(int) <= 11])
    assert left < early
    assert len(early - left) == pytest.approx(10, abs=3)
    positives = (every["label"] == "1") & ((week > 11) | every["user_id"].isin(left))
    key = ["basket_id", "item_id"]
    expected = every.loc[positives, key].values.tolist()
    assert thin.loc[thin["label"] == "1", key].values.tolist() == expected
    # Purchases of thinned households are gone in all weeks, those of the others are all there.
    history = read(out, "history")["user_id"].value_counts()
    whole = read(tmp_path / "a", "history")["user_id"].value_counts()
    others = {u for u in whole.index if history.get(u, 0) == whole[u]}
    assert len(others) == 10
    assert set(history.index) == others


def test_max_rows_leaves_out_whole_households(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", **market(2))
    every = read(convert(raw, tmp_path / "a"))
    some = read(convert(raw, tmp_path / "b", max_rows=len(every) // 2))
    assert 0 < len(some) <= len(every) // 2
    for user, rows in some[some["label"] == "1"].groupby("user_id"):
        whole = every[(every["user_id"] == user) & (every["label"] == "1")]
        assert rows["item_id"].tolist() == whole["item_id"].tolist()


def test_sparse_is_a_dataset_of_its_own() -> None:
    sparse = get_adapter("complete-journey-sparse").settings()
    assert (sparse["sparse_households"], sparse["sparse_weeks"]) == (0.55, 0.06)
    assert sparse["negatives"] == "popularity"
    assert get_adapter("complete-journey").settings()["negatives"] == "uniform"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negative": "uniform"}, r"no option 'negative' \(did you mean 'negatives'\?\)"),
        ({"negatives": "popular"}, r"expected uniform or popularity, got 'popular'"),
        ({"seed": "x"}, r"option 'seed': expected int such as 2017, got 'x'"),
        ({"seed": 1.5}, r"option 'seed': expected int such as 2017, got 1.5"),
        ({"sparse_weeks": 6}, r"option 'sparse_weeks': expected a share from 0 to 1, got 6"),
        ({"max_rows": -1}, r"option 'max_rows': expected 0 or more, got -1"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        get_adapter("complete-journey", options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"promotions": ["1,300,?,0,10"]}, r"one character .* got '1 \| 300 \| \? \| 0 \| 10'"),
        ({"promotions": ["1,300,1,0,4"]}, r"no purchase was on display"),
        (
            {"transactions": ["7,300,500,1,1,0.5,0,0,0,10,yesterday"]},
            r"expected a transaction_timestamp such as .* got 'yesterday'",
        ),
        (
            {"transactions": [TRANSACTIONS[0], TRANSACTIONS[3].replace("8,300,501", "7,300,500")]},
            r"got a basket with two",
        ),
        ({"products": [*PRODUCTS, PRODUCTS[0]]}, r"expected one row per product_id"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, rows: dict[str, list[str]], message: str) -> None:
    raw = write_raw(tmp_path / "raw", **rows)
    with pytest.raises(DataError, match=message):
        convert(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_file_says_what_and_where(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw")
    (raw / "promotions.csv").unlink()
    with pytest.raises(DataError, match=r"'promotions.csv' \(20,940,529 rows\).*dunnhumby"):
        convert(raw, tmp_path / "out")


def test_options_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = write_raw(tmp_path / "raw")
    arguments = ["complete-journey", "--raw", str(raw), "--out", str(tmp_path / "data")]
    arguments += ["--no-verify", "--set", "negatives_per_positive=1"]
    assert main(arguments) == 0
    labels = read(tmp_path / "data" / "complete-journey")["label"]
    assert labels.value_counts().to_dict() == {"0": 3, "1": 3}
    assert main([*arguments, "--set", "seed"]) == 2
    assert "expected NAME=VALUE" in capsys.readouterr().err


def real(name: str, tmp_path: Path) -> tuple[Adapter, Path]:
    place = os.environ.get("RECBOLE_CHOIR_DATA")
    if not place:
        pytest.skip("RECBOLE_CHOIR_DATA is not set: the official files are not here")
    if not any((Path(place) / f).is_dir() for f in adapters()[name].folders):
        pytest.skip(f"RECBOLE_CHOIR_DATA holds no folder of {name}")
    adapter = get_adapter(name)
    return adapter, adapter.convert(find_raw(name), tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["complete-journey", "complete-journey-sparse"])
def test_real_files(tmp_path: Path, name: str) -> None:
    adapter, out = real(name, tmp_path)
    rows = read(out, name=name)
    week, label = rows["week"].astype(int), rows["label"] == "1"
    assert sorted(week.unique()) == list(range(9, 54))
    # The split of properties/ falls between the weeks: 9-43, 44-48, 49-53.
    values = yaml.safe_load((properties_dir() / "dataset" / f"{name}.yaml").read_text())
    cuts = np.histogram(week, [9, 44, 49, 54])[0].tolist()
    assert values["eval_args"]["split"]["RS"] == cuts
    facts = adapter.facts
    assert facts["purchases"] == 1_469_307
    assert facts["exposed_purchases"] == 283_263
    assert facts["negatives_missing"] == 0
    assert label.mean() == pytest.approx(1 / 6)
    if name == "complete-journey":
        assert len(rows) == 1_699_578
    else:
        assert facts["sparse_households"] == round(0.55 * 2_469)
        assert facts["purchases_per_sparse_household_to_week_43"] == pytest.approx(28, abs=3)
        assert facts["purchases_per_other_household_to_week_43"] == pytest.approx(483, abs=15)
