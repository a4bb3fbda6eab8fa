"""Coupons of the Complete Journey: who was sent what, what was known then, what was redeemed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from recbole_choir.dataset_adapters import adapters, find_raw, get_adapter
from recbole_choir.errors import DataError
from recbole_choir.paths import properties_dir

NAME = "complete-journey-coupons"
FILES = {
    "campaigns": "campaign_id,household_id\n1,7\n1,8\n2,7\n",
    "campaign_descriptions": "campaign_id,campaign_type,start_date,end_date\n"
    "2,Type A,2017-03-01,2017-05-01\n1,Type B,2017-02-01,2017-04-01\n",
    "coupons": "coupon_upc,product_id,campaign_id\n"
    "900,1,1\n900,2,1\n900,2,1\n901,3,1\n900,1,2\n902,4,2\n",
    "coupon_redemptions": "household_id,coupon_upc,campaign_id,redemption_date\n"
    "7,900,1,2017-02-10\n7,900,1,2017-02-11\n9,900,1,2017-02-11\n",
    "transactions": "household_id,store_id,basket_id,product_id,quantity,sales_value,retail_disc,"
    "coupon_disc,coupon_match_disc,week,transaction_timestamp\n"
    "7,1,10,1,1,1,0,0,0,4,2017-01-31 23:59:59\n"
    "7,1,10,2,2,1,0,0,0,4,2017-01-31 23:59:59\n"
    "7,1,11,1,1,1,0,0,0,5,2017-02-01 00:00:00\n"
    "8,1,12,3,0,1,0,0,0,4,2017-01-30 10:00:00\n"
    "8,1,12,5,1,1,0,0,0,4,2017-01-30 10:00:00\n",
    "products": "product_id,manufacturer_id,department,brand,product_category,product_type,"
    "package_size\n1,1,GROCERY,National,SOUP,CAN,\n2,1,GROCERY,National,SOUP,DRY,\n"
    "3,1,MEAT,National,BEEF,STEAK,\n5,1,MEAT,National,BEEF,STEAK,\n",
    "demographics": "household_id,age,income,home_ownership,marital_status,household_size,"
    "household_comp,kids_count\n8,45-54,50-74K,,Married,2,2 Adults No Kids,0\n",
}


def write_raw(folder: Path, **texts: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in {**FILES, **texts}.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def read(out: Path, suffix: str) -> pd.DataFrame:
    table = pd.read_csv(out / f"{NAME}.{suffix}", sep="\t", dtype=str, keep_default_na=False)
    return table.rename(columns=lambda c: c.split(":")[0])


def test_rows_are_coupons_for_every_household_of_a_campaign(tmp_path: Path) -> None:
    adapter = get_adapter(NAME)
    out = adapter.convert(write_raw(tmp_path / "raw"), tmp_path / "out", verify=False)
    rows = read(out, "inter")
    assert list(zip(rows["user_id"], rows["item_id"], rows["campaign_id"], rows["label"])) == [
        ("7", "900", "1", "1"),
        ("7", "901", "1", "0"),
        ("8", "900", "1", "0"),
        ("8", "901", "1", "0"),
        ("7", "900", "2", "0"),
        ("7", "902", "2", "0"),
    ]
    # Campaign 2 starts before campaign 1 is over: by its last day, the answer to 1 is known.
    ends = [int(pd.Timestamp(d).timestamp()) for d in ("2017-04-01", "2017-05-01")]
    assert rows["timestamp"].astype(int).tolist() == [ends[0]] * 4 + [ends[1]] * 2
    assert adapter.facts == {"redeemed": 1, "redeemed_but_not_sent": 1}


def test_context_counts_purchases_before_the_first_day(tmp_path: Path) -> None:
    out = get_adapter(NAME).convert(write_raw(tmp_path / "raw"), tmp_path / "out", verify=False)
    rows = read(out, "inter")
    bought = np.expm1(rows["log_bought_before"].astype(float)).round(2).tolist()
    # 7 bought products 1 and 2 of coupon 900 before campaign 1, and 1 again on its first day.
    # 8's product 3 has quantity 0; nothing of coupon 902 was bought.
    assert bought == [2, 0, 0, 0, 2, 0]
    everything = np.expm1(rows["log_purchases_before"].astype(float)).round(2).tolist()
    assert everything == [2, 2, 1, 1, 3, 3]


def test_later_purchases_change_nothing(tmp_path: Path) -> None:
    out = get_adapter(NAME).convert(write_raw(tmp_path / "a"), tmp_path / "oa", verify=False)
    more = FILES["transactions"] + "".join(
        f"7,1,{20 + k},{1 + k % 3},1,1,0,0,0,9,2017-03-0{1 + k} 00:00:00\n" for k in range(6)
    )
    raw = write_raw(tmp_path / "b", transactions=more)
    late = get_adapter(NAME).convert(raw, tmp_path / "ob", verify=False)
    assert (late / f"{NAME}.inter").read_bytes() == (out / f"{NAME}.inter").read_bytes()


def test_coupons_are_described_by_their_products(tmp_path: Path) -> None:
    out = get_adapter(NAME).convert(write_raw(tmp_path / "raw"), tmp_path / "out", verify=False)
    items = read(out, "item").to_numpy().tolist()
    assert items == [
        ["900", "CAN, DRY", "SOUP", "GROCERY", "1.0986"],
        ["901", "STEAK", "BEEF", "MEAT", "0.6931"],
        ["902", "", "", "", "0.6931"],  # its product is not listed
    ]
    users = read(out, "user")
    assert users.iloc[0].tolist() == ["7"] + [""] * 7


def test_wrong_files_are_named(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "a", campaigns="campaign_id,household_id\n3,7\n")
    with pytest.raises(DataError, match=r"expected every campaign, got none for 3"):
        get_adapter(NAME).convert(raw, tmp_path / "out", verify=False)
    text = FILES["campaign_descriptions"].replace("2017-03-01", "March")
    raw = write_raw(tmp_path / "b", campaign_descriptions=text)
    with pytest.raises(DataError, match=r"expected a date such as 2017-03-03, got 'March'"):
        get_adapter(NAME).convert(raw, tmp_path / "out", verify=False)


@pytest.mark.slow
def test_real_files(tmp_path: Path) -> None:
    place = os.environ.get("RECBOLE_CHOIR_DATA")
    if not place:
        pytest.skip("RECBOLE_CHOIR_DATA is not set: the official files are not here")
    if not any((Path(place) / f).is_dir() for f in adapters()[NAME].folders):
        pytest.skip("RECBOLE_CHOIR_DATA holds no folder of the Complete Journey")
    adapter = get_adapter(NAME)
    out = adapter.convert(find_raw(NAME), tmp_path / NAME)
    assert adapter.facts == {"redeemed": 2_075, "redeemed_but_not_sent": 0}
    time = read(out, "inter")["timestamp"].astype(int)
    values = yaml.safe_load((properties_dir() / "dataset" / f"{NAME}.yaml").read_text())
    first, second, _ = values["eval_args"]["split"]["RS"]
    assert time.is_monotonic_increasing
    for cut in (first, first + second):
        assert time[cut - 1] < time[cut]
