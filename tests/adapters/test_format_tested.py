"""Sets whose official files were not at hand: tiny files in exactly their published form."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from recbole_choir.dataset_adapters import RawFolder, get_adapter
from recbole_choir.dataset_adapters.ali_ccp import feature
from recbole_choir.dataset_adapters.user_share import in_share
from recbole_choir.errors import DataError
from recbole_choir.integration import ChoirConfig, create_dataset
from recbole_choir.paths import properties_dir


def write(folder: Path, name: str, lines: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


# --- Ali_Display_Ad_Click -------------------------------------------------------------------------


def write_taobao_ad(folder: Path, n: int = 60) -> Path:
    rows = [
        f"{u},{1494137644 + 60 * k},{k % 7 + 1},{'430548_1007' if k % 2 else '430539_1007'},"
        f"{1 - (k % 3 == 0)},{int(k % 3 == 0)}"
        for k in range(n)
        for u in [581738 + k % 5]
    ]
    write(folder, "raw_sample.csv", ["user,time_stamp,adgroup_id,pid,nonclk,clk", *rows])
    ads = [f"{a},{6261 + a % 2},83237,1,{'NULL' if a == 3 else 95471},{a}70.0" for a in range(1, 7)]
    head = "adgroup_id,cate_id,campaign_id,customer,brand,price"
    write(folder, "ad_feature.csv", [head, *ads, "999,1,1,1,1,1.0"])
    # the official header ends in a blank; a missing level is an empty cell
    head = (
        "userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,shopping_level,"
        "occupation,new_user_class_level "
    )
    users = [f"{581738 + k},0,{k},2,5,{k % 2 or ''},3,0,{3 if k else ''}" for k in range(4)]
    write(folder, "user_profile.csv", [head, *users, "7,0,1,2,5,,3,0,3"])
    return folder


# --- Taobao UserBehavior --------------------------------------------------------------------------

BEHAVIOUR = [
    "1,11,100,pv,1511544070",
    "1,11,100,pv,1511544080",  # the same item again
    "1,12,100,pv,1511544090",
    "1,12,100,buy,1511544095",
    "2,13,101,pv,1511544070",
    "2,13,101,cart,1511544071",
    "2,11,100,fav,1511544072",
    "2,14,102,pv,2122867355",  # a stamp of the year 2037, as some rows bear
    "3,15,103,pv,1512316799",
    "3,16,103,pv,1512316800",  # a second too late
]


def write_user_behavior(folder: Path, n: int = 0) -> Path:
    more = [f"{4 + k % 6},{20 + k % 9},{k % 3},pv,{1511550000 + 97 * k}" for k in range(n)]
    write(folder, "UserBehavior.csv", [*BEHAVIOUR, *more])
    return folder


# --- Tmall, IJCAI-15 ------------------------------------------------------------------------------

TMALL = [
    "328862,323294,833,2882,2661,829,0",
    "328862,323294,833,2882,2661,829,2",
    "328862,844400,1271,2882,2661,1111,2",
    "328862,844400,1271,2882,2661,1111,2",
    "234512,323294,833,2882,,0511,2",
    "234512,575153,1271,2882,2661,1112,3",
    "1,575153,1271,2882,2661,901,1",
]


def write_tmall(folder: Path, n: int = 0) -> Path:
    more = [f"{4 + k % 6},{20 + k % 9},{k % 3},7,8,{601 + k % 28},2" for k in range(n)]
    head = "user_id,item_id,cat_id,seller_id,brand_id,time_stamp,action_type"
    write(folder, "user_log_format1.csv", [head, *TMALL, *more])
    info = ["user_id,age_range,gender", "328862,6,1", "234512,0,2", "99,3,0"]
    write(folder, "user_info_format1.csv", info)
    return folder


# --- Ali-CCP --------------------------------------------------------------------------------------


def features(**cells: str) -> str:
    return "\x01".join(f"{k.lstrip('f')}\x02{v}\x031.0" for k, v in cells.items())


def write_ali_ccp(folder: Path, n: int = 0) -> Path:
    for part in ("train", "test"):
        views = [(f"v{part}{u}{s}", str(10 + u)) for u in range(4) for s in range(2)]
        common = [
            f"{view},3,{features(f109_14='9', f101=user, f121='5', f127_14='8', f127='3')}"
            for view, user in views
        ]
        write(folder, f"common_features_{part}.csv", common)
        rows = []
        for k in range(max(n, 12)):
            cells = {"f216": "77", "f205": str(400 + k % 5), "f206": "6", "f207": "7"}
            click, bought = int(k % 3 == 0), int(k % 6 == 0)
            if k == 7:
                click, bought = 0, 1  # bought and not clicked: the official files have some
            view = views[k // 2 % len(views)][0]
            # 301 is in most lists; 210 may be there several times
            text = features(**cells, f210="1", f301="9351665" if k % 4 else "9351666")
            rows.append(f"{k + 1},{click},{bought},{view},6,{text}")
        write(folder, f"sample_skeleton_{part}.csv", rows)
    return folder


# --- KuaiRand-Pure --------------------------------------------------------------------------------

LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,"
    "long_view,play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,"
    "is_rand,tab"
)


def write_kuairand(folder: Path, n: int = 20) -> Path:
    names = [f"log_standard_{days}_pure.csv" for days in ("4_08_to_4_21", "4_22_to_5_08")]
    for f, name in enumerate([*names, "log_random_4_22_to_5_08_pure.csv"]):
        rows = [
            f"{k % 5},{k % 7},20220408,1500,{1649426352342 + 1001 * k + f},{k % 2},0,0,0,0,0,"
            f"{k % 3 % 2},1200,9000,0,0,0,{int(f == 2)},{k % 3}"
            for k in range(n)
        ]
        write(folder, name, [LOG, *rows])
    head = (
        "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,"
        "follow_user_num,follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,"
        "friend_user_num_range,register_days,register_days_range,"
    ) + ",".join(f"onehot_feat{k}" for k in range(18))
    users = [
        f'{u},full_active,0,0,1,5,"(0,10]",3,"[1,10)",0,0,730,366-730,'
        + ",".join("0" * 17)
        + ",0.0"
        for u in range(5)
    ]
    write(folder, "user_features_pure.csv", [head, *users])
    head = (
        "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,"
        "server_width,server_height,music_id,music_type,tag"
    )
    videos = [
        f"{v},{v + 70},NORMAL,2022-04-01,ShortImport,0,{'' if v == 2 else '11233.0'},720,1280,"
        f"4.2E10,9.0,{'12' if v else chr(34) + '12,65' + chr(34)}"
        for v in range(7)
    ]
    write(folder, "video_features_basic_pure.csv", [head, *videos])
    return folder


# --- Amazon Reviews 2023 --------------------------------------------------------------------------


def write_amazon(folder: Path, n: int = 20) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    reviews = [
        {
            "rating": float(k % 5 + 1),
            "title": 'Such a "lovely" scent',
            "text": "This spray\nis really nice.",
            "images": [],
            "asin": f"B00Y{k % 3}",
            "parent_asin": f"B00{k % 3}",
            "user_id": f"AGKH{k % 4}",
            "timestamp": 1588687728923 + 1_000_001 * k,
            "helpful_vote": 0,
            "verified_purchase": True,
        }
        for k in range(n)
    ]
    items = [
        {
            "main_category": "All Beauty",
            "title": "Howard\tLC0008 Leather Conditioner",
            "average_rating": 4.8,
            "rating_number": 10,
            "features": [],
            "description": [],
            "price": None,
            "images": [],
            "videos": [],
            "store": "Howard Products" if k else None,
            "categories": ["Beauty & Personal Care", "Hair Care"] if k else [],
            "details": {"Brand": "x"},
            "parent_asin": f"B00{k}",
            "bought_together": None,
        }
        for k in range(4)
    ]
    for name, rows in (("All_Beauty.jsonl", reviews), ("meta_All_Beauty.jsonl", items)):
        with gzip.open(folder / f"{name}.gz", "wt", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


WRITERS: dict[str, Callable[[Path, int], Path]] = {
    "taobao-ad": write_taobao_ad,
    "taobao-user-behavior": write_user_behavior,
    "tmall-ijcai15": write_tmall,
    "ali-ccp": write_ali_ccp,
    "kuairand-pure": write_kuairand,
    "amazon-2023-all-beauty": write_amazon,
}
EVERYBODY = {"user_share": 1.0}


def convert(name: str, raw: Path, out: Path, **options: Any) -> Path:
    adapter = get_adapter(name)
    if "user_share" in adapter.options:
        options = {**EVERYBODY, **options}
    return get_adapter(name, options).convert(raw, out / name, verify=False)


def read(out: Path, suffix: str = "inter") -> pd.DataFrame:
    table = pd.read_csv(out / f"{out.name}.{suffix}", sep="\t", dtype=str, keep_default_na=False)
    return table.rename(columns=lambda c: c.split(":")[0])


def facts(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "manifest.json").read_text())["facts"])


def test_display_ads_keep_labels_times_and_gaps(tmp_path: Path) -> None:
    out = convert("taobao-ad", write_taobao_ad(tmp_path / "raw"), tmp_path)
    rows = read(out)
    assert rows.iloc[0].tolist() == ["581738", "1", "1", "1494137644", "430539_1007"]
    assert (rows["label"] == "1").sum() == 20
    users = read(out, "user").set_index("user_id")
    assert sorted(users.index) == [str(581738 + k) for k in range(5)], "only users of the log"
    assert users.loc["581738", ["pvalue_level", "new_user_class_level"]].tolist() == ["", ""]
    assert (users.loc["581742"] == "").all(), "a user without a profile stays"
    ads = read(out, "item").set_index("item_id")
    assert sorted(ads.index) == [str(a) for a in range(1, 8)]
    assert ads.loc["3", "brand"] == "", "NULL is a gap"
    assert ads.loc["1"].tolist() == ["6262", "83237", "1", "95471", "170.0"]
    found = facts(out)
    assert (found["users_without_profile"], found["ads_without_features"]) == (1, 1)


def test_first_views_are_positives_and_stamps_out_of_the_period_are_counted(tmp_path: Path) -> None:
    raw = write_user_behavior(tmp_path / "raw")
    out = convert("taobao-user-behavior", raw, tmp_path, negatives="uniform")
    rows = read(out)
    positive = rows[rows["label"] == "1"]
    assert list(zip(positive["user_id"], positive["item_id"], positive["timestamp"])) == [
        ("1", "11", "1511544070"),
        ("2", "13", "1511544070"),
        ("1", "12", "1511544090"),
        ("3", "15", "1512316799"),
    ]
    found = facts(out)
    assert found["actions"] == {"view": 5, "buy": 1, "cart": 1, "favourite": 1}
    assert found["rows_outside_of_the_period"] == 2
    assert found["positives_of_one_item_again"] == 1
    items = read(out, "item")
    assert items.to_numpy().tolist() == [["11", "100"], ["12", "100"], ["13", "101"], ["15", "103"]]
    negative = rows[rows["label"] == "0"]
    # user 1 has taken 11 from the first moment on, so it is never drawn for that user
    assert not ((negative["user_id"] == "1") & (negative["item_id"] == "11")).any()


def test_purchases_alone(tmp_path: Path) -> None:
    raw = write_user_behavior(tmp_path / "raw")
    out = convert("taobao-user-behavior", raw, tmp_path, positive="buy", negatives="uniform")
    rows = read(out)
    assert rows[rows["label"] == "1"][["user_id", "item_id"]].to_numpy().tolist() == [["1", "12"]]
    assert (rows["timestamp"] == "1511544095").all()
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["negatives"]["user_share"] == 1.0
    assert manifest["settings"]["positive"] == "buy"


def test_tmall_days_and_unknown_codes(tmp_path: Path) -> None:
    out = convert("tmall-ijcai15", write_tmall(tmp_path / "raw"), tmp_path, negatives="uniform")
    rows = read(out)
    positive = rows[rows["label"] == "1"]
    day = pd.to_datetime(positive["timestamp"].astype(int), unit="s").dt.strftime("%Y-%m-%d")
    assert list(zip(positive["user_id"], positive["item_id"], day)) == [
        ("234512", "323294", "2014-05-11"),
        ("328862", "323294", "2014-08-29"),
        ("328862", "844400", "2014-11-11"),
    ]
    users = read(out, "user").set_index("user_id")
    assert users.loc["328862"].tolist() == ["6", "1"]
    assert users.loc["234512"].tolist() == ["", ""], "0 and 2 mean unknown"
    assert "99" not in users.index
    assert read(out, "item").iloc[0].tolist() == ["323294", "833", "2882", "2661"]
    assert facts(out)["positives_of_one_item_again"] == 1


def test_features_of_a_list() -> None:
    lists = pd.Series(
        [features(f127_14="8", f127="3", f205="x"), features(f1205="9"), "205\x02a\x032"]
    )
    assert feature(lists, "127").tolist() == ["3", "", ""]
    assert feature(lists, "127_14").tolist() == ["8", "", ""]
    assert feature(lists, "205").tolist() == ["x", "", "a"], "1205 is another field"


def test_ali_ccp_joins_views_and_orders_by_place(tmp_path: Path) -> None:
    raw = write_ali_ccp(tmp_path / "raw")
    out = convert("ali-ccp", raw, tmp_path)
    rows = read(out)
    assert facts(out) == {"conversions_without_click": 2, "rows_without_item": 0}
    assert len(rows) == 2 * 11, "a purchase without a click is left out and counted"
    assert rows.iloc[0].tolist() == ["10", "400", "1", "0", "9351666"]
    assert rows["timestamp"].astype(int).tolist()[:6] == [0, 0, 2, 2, 4, 4], (
        "a view's rows share it"
    )
    assert rows["timestamp"].astype(int).tolist()[11] == 12, "test comes after train"
    assert read(out, "user").iloc[0].tolist() == ["10", "5", "", "", "", "", "3", "", ""]
    assert read(out, "item").iloc[0].tolist() == ["400", "6", "7", "77"]


def test_ali_ccp_conversions_of_clicked_rows(tmp_path: Path) -> None:
    rows = read(convert("ali-ccp", write_ali_ccp(tmp_path / "raw"), tmp_path, label="conversion"))
    assert len(rows) == 2 * 4
    assert rows["label"].tolist() == ["1", "0", "1", "0"] * 2


def test_kuairand_milliseconds_tags_and_reactions(tmp_path: Path) -> None:
    raw = write_kuairand(tmp_path / "raw")
    out = convert("kuairand-pure", raw, tmp_path)
    rows = read(out)
    assert rows.iloc[1].tolist() == ["1", "1", "1", "1649426353.343", "1", "0"]
    assert rows["is_rand"].tolist() == ["0"] * 40 + ["1"] * 20
    videos = read(out, "item").set_index("item_id")
    assert videos.loc["0", "tag"] == "12 65"
    assert videos.loc["2", "video_duration"] == ""
    assert read(out, "user").iloc[0].tolist() == ["0", "0", "1", "366-730"]
    long = read(convert("kuairand-pure", raw, tmp_path / "long", label="long_view"))
    assert long["label"].tolist()[:6] == ["0", "1", "0", "0", "1", "0"]


def test_amazon_2023_ratings_and_texts(tmp_path: Path) -> None:
    out = convert("amazon-2023-all-beauty", write_amazon(tmp_path / "raw"), tmp_path)
    assert read(out).iloc[1].tolist() == ["AGKH1", "B001", "2.0", "1588688728.924"]
    items = read(out, "item").set_index("item_id")
    assert items.loc["B000"].tolist() == ["Howard LC0008 Leather Conditioner", "", "All Beauty", ""]
    assert items.loc["B001", "categories"] == "Beauty & Personal Care|Hair Care"


def test_amazon_2023_names_a_review_without_a_field(tmp_path: Path) -> None:
    raw = write_amazon(tmp_path / "raw")
    (raw / "All_Beauty.jsonl.gz").unlink()
    (raw / "All_Beauty.jsonl").write_text('{"rating": 1.0, "parent_asin": "B", "timestamp": 1}\n')
    with pytest.raises(DataError, match=r"All_Beauty.jsonl: expected 'user_id' in every object"):
        convert("amazon-2023-all-beauty", raw, tmp_path)
    (raw / "All_Beauty.jsonl").write_text("{\n")
    with pytest.raises(DataError, match="expected a JSON object a line"):
        convert("amazon-2023-all-beauty", raw, tmp_path)


@pytest.mark.parametrize("name", WRITERS)
def test_rows_do_not_depend_on_chunks(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = WRITERS[name](tmp_path / "raw", 30)
    one = convert(name, raw, tmp_path / "a")
    chunks = RawFolder.chunks
    monkeypatch.setattr(RawFolder, "chunks", lambda self, file: chunks(self, file, 7))
    two = convert(name, raw, tmp_path / "b")
    for path in one.glob(f"{name}.*"):
        assert sorted(path.read_text().splitlines()) == sorted(
            (two / path.name).read_text().splitlines()
        )


@pytest.mark.parametrize("name", WRITERS)
def test_the_dataset_is_read_with_its_own_settings(name: str, tmp_path: Path) -> None:
    convert(name, WRITERS[name](tmp_path / "raw", 90), tmp_path / "data")
    settings = {"data_path": str(tmp_path / "data")}
    config = ChoirConfig(model="Base", dataset=name, config_dict=settings)
    data = create_dataset(config)
    data.build_splits()
    sizes = data.split_sizes()
    assert sum(sizes.values()) == len(read(tmp_path / "data" / name)), "no row is lost"
    assert min(sizes.values()) > 0
    values = yaml.safe_load((properties_dir() / "dataset" / f"{name}.yaml").read_text())
    columns = values["load_col"]
    assert set(values["user_attr_fields"]) <= set(columns.get("user", ()))
    assert set(values["item_attr_fields"]) <= set(columns["item"])
    assert values["category_field"] in columns["item"]


def test_a_share_of_users_is_whole_nested_and_about_as_large_as_asked() -> None:
    users = np.arange(100_000)
    tenth = in_share(users, 0.1, 7)
    assert tenth.mean() == pytest.approx(0.1, abs=0.004)
    assert not (tenth & ~in_share(users, 0.2, 7)).any(), "a larger share holds the smaller one"
    assert in_share(users[::-1], 0.1, 7)[::-1].tolist() == tenth.tolist()
    other = in_share(users, 0.1, 8)
    assert (tenth & other).mean() == pytest.approx(0.01, abs=0.002), "seeds are independent"
    assert in_share(users, 1.0, 7).all()


def test_a_share_keeps_whole_users(tmp_path: Path) -> None:
    raw = write_taobao_ad(tmp_path / "raw")
    everybody = read(convert("taobao-ad", raw, tmp_path / "a"))["user_id"].value_counts()
    some = read(convert("taobao-ad", raw, tmp_path / "b", user_share=0.5))["user_id"].value_counts()
    assert 0 < len(some) < len(everybody)
    assert (everybody[some.index] == some).all()


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("taobao-ad", "user_share", 0.0, "expected a share above 0 and at most 1, got 0"),
        ("ali-ccp", "label", "clik", "expected click or conversion, got 'clik'"),
        ("tmall-ijcai15", "positive", "by", r"expected one of view.*did you mean 'buy'"),
        ("kuairand-pure", "label", "is_lik", r"expected one of is_click.*did you mean 'is_like'"),
    ],
)
def test_wrong_options_are_one_line(name: str, option: str, value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        get_adapter(name, {option: value})


def test_wrong_actions_and_days_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a", "UserBehavior.csv", ["1,2,3,look,1511544070"])
    with pytest.raises(DataError, match=r"expected actions pv, buy, cart, fav, got 'look'"):
        convert("taobao-user-behavior", tmp_path / "a", tmp_path)
    raw = write_tmall(tmp_path / "b")
    head = "user_id,item_id,cat_id,seller_id,brand_id,time_stamp,action_type"
    write(raw, "user_log_format1.csv", [head, "1,2,3,4,5,1331,2"])
    with pytest.raises(DataError, match=r"expected month and day such as 1111, got '1331'"):
        convert("tmall-ijcai15", raw, tmp_path)
    raw = write_ali_ccp(tmp_path / "c")
    write(raw, "common_features_train.csv", [f"v1,1,{features(f121='5')}"])
    with pytest.raises(DataError, match=r"expected field 101 \(user\) in every row, 'v1' has none"):
        convert("ali-ccp", raw, tmp_path)
