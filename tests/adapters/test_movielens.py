"""MovieLens adapters: exact atomic files from tiny raw files in the official format."""

from __future__ import annotations

import gzip
import json
import logging
import lzma
import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_choir.dataset_adapters import RawFile, RawFolder, adapters, find_raw, get_adapter
from recbole_choir.dataset_adapters.__main__ import main
from recbole_choir.dataset_adapters.movielens import ML100K_GENRES, split_title
from recbole_choir.errors import DataError

RATINGS = "1::1193::5::978300760\n1::661::3::978302109\n2::1193::4::978298413\n"
USERS = "1::F::1::10::48067\n2::M::56::16::70072-1234\n"
MOVIES = (
    "661::James and the Giant Peach (1996)::Animation|Children's|Musical\n"
    '1193::One Flew Over: the "Cuckoo\'s" Nest (1975)::Drama\n'
    "73::Misérables, Les (1995)::Drama|Musical\n"
    "9::Odd title::Film-Noir\n"
)


def write_ml1m(folder: Path, **texts: str) -> Path:
    """Write a tiny ml-1m in the official format; ``texts`` replaces files by their stem."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"ratings": RATINGS, "users": USERS, "movies": MOVIES, **texts}
    for stem, text in files.items():
        (folder / f"{stem}.dat").write_bytes(text.encode("ISO-8859-1"))
    return folder


def convert(raw: Path, out: Path) -> Path:
    return get_adapter("ml-1m").convert(raw, out, verify=False)


def test_ml1m_atomic_files_are_exact(tmp_path: Path) -> None:
    out = convert(write_ml1m(tmp_path / "raw"), tmp_path / "dataset" / "ml-1m")
    assert (out / "ml-1m.inter").read_text() == (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "1\t1193\t5\t978300760\n1\t661\t3\t978302109\n2\t1193\t4\t978298413\n"
    )
    assert (out / "ml-1m.user").read_text() == (
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
        "1\tunder 18\tF\tK-12 student\t48067\n2\t56+\tM\tself-employed\t70072-1234\n"
    )
    assert (out / "ml-1m.item").read_text(encoding="utf-8") == (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tgenre:token_seq\n"
        "661\tJames and the Giant Peach\t1996\tAnimation Children's Musical\n"
        "1193\tOne Flew Over: the 'Cuckoo's' Nest\t1975\tDrama\n"
        "73\tMisérables, Les\t1995\tDrama Musical\n"
        "9\tOdd title\t\tFilm-Noir\n"
    )


def test_manifest_counts_and_nothing_left_behind(tmp_path: Path) -> None:
    out = convert(write_ml1m(tmp_path / "raw"), tmp_path / "dataset" / "ml-1m")
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["counts"] == {
        "interactions": 3,
        "users": 2,
        "items": 2,
        "user_rows": 2,
        "users_without_attributes": 0,
        "item_rows": 4,
        "items_without_attributes": 0,
    }
    assert manifest["verified"] is False
    assert [p.name for p in out.parent.iterdir()] == ["ml-1m"]
    assert sorted(p.name for p in out.iterdir()) == [
        "manifest.json",
        "ml-1m.inter",
        "ml-1m.item",
        "ml-1m.user",
    ]


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zip"])
def test_compressed_files_give_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    plain = write_ml1m(tmp_path / "plain")
    packed = tmp_path / "packed"
    packed.mkdir()
    for path in plain.iterdir():
        target = packed / (path.name + suffix)
        if suffix == ".zip":
            with zipfile.ZipFile(target, "w") as archive:
                archive.write(path, path.name)
        else:
            opener = gzip.open if suffix == ".gz" else lzma.open
            with opener(target, "wb") as stream:
                stream.write(path.read_bytes())
    one, two = convert(plain, tmp_path / "a"), convert(packed, tmp_path / "b")
    for name in ("ml-1m.inter", "ml-1m.user", "ml-1m.item"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_same_source_is_not_converted_again(tmp_path: Path) -> None:
    raw = write_ml1m(tmp_path / "raw")
    out = convert(raw, tmp_path / "out")
    before = out.stat().st_ino
    assert convert(raw, out).stat().st_ino == before
    write_ml1m(raw, ratings=RATINGS + "2::661::1::978298500\n")
    after = convert(raw, out)
    assert after.stat().st_ino != before
    assert len((out / "ml-1m.inter").read_text().splitlines()) == 5
    (out / "ml-1m.user").unlink()
    assert (convert(raw, out) / "ml-1m.user").is_file()


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    raw = write_ml1m(tmp_path / "raw")
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match=r"not written by the 'ml-1m' adapter"):
        convert(raw, out)
    assert [p.name for p in out.iterdir()] == ["mine.txt"]


def test_failure_keeps_the_old_folder(tmp_path: Path) -> None:
    raw = write_ml1m(tmp_path / "raw")
    out = convert(raw, tmp_path / "out")
    before = (out / "ml-1m.inter").read_bytes()
    write_ml1m(raw, users=USERS + "1::M::25::3::11111\n")
    with pytest.raises(DataError, match=r"user id '1' has more than one row"):
        convert(raw, out)
    assert (out / "ml-1m.inter").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "raw"]


def test_bad_rows_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = "".join(f"{u}::1193::4::{978298413 + u}\n" for u in range(1, 1001))
    bad = "5::1193\n6::1193::x::978298413\n7::1193::4::1::2\n8::1193::inf::3\n\n"
    raw = write_ml1m(tmp_path / "raw", ratings=good + bad)
    with caplog.at_level(logging.WARNING):
        out = convert(raw, tmp_path / "out")
    facts = json.loads((out / "manifest.json").read_text())["raw"]["ratings.dat"]
    assert facts["rows"] == 1000
    assert facts["bad_rows"] == {
        "empty or too few fields": 1,
        "not a number": 2,
        "too many fields": 1,
    }
    assert "4 of 1,004 rows left out" in caplog.text
    assert len((out / "ml-1m.inter").read_text().splitlines()) == 1001


def test_mostly_bad_rows_are_an_error(tmp_path: Path) -> None:
    raw = write_ml1m(tmp_path / "raw", ratings="1,2,3,4\n" * 50)
    with pytest.raises(DataError, match=r"50 of 50 rows are bad .*separated by '::'"):
        convert(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_truncated_gz_is_an_error(tmp_path: Path) -> None:
    raw = write_ml1m(tmp_path / "raw")
    packed = gzip.compress((raw / "ratings.dat").read_bytes())
    (raw / "ratings.dat").unlink()
    (raw / "ratings.dat.gz").write_bytes(packed[:-12])
    with pytest.raises(DataError, match=r"ratings\.dat\.gz: cannot be read"):
        convert(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_verify_refuses_another_edition(tmp_path: Path) -> None:
    raw = write_ml1m(tmp_path / "raw")
    with pytest.raises(DataError, match=r"expected 1,000,209 rows, got 3 .*grouplens"):
        get_adapter("ml-1m").convert(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_file_says_what_and_where(tmp_path: Path) -> None:
    raw = write_ml1m(tmp_path / "raw")
    (raw / "users.dat").unlink()
    with pytest.raises(DataError, match=r"'users\.dat' \(6,040 rows\) is missing.*grouplens\.org"):
        convert(raw, tmp_path / "out")


def test_separator_across_block_borders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = RawFile("x.dat", ("a", "b"), separator="::", required=("a", "b"))
    (tmp_path / "x.dat").write_text("1::22\n333::4\n5::6:7\n::8\n")
    for block in range(1, 9):
        monkeypatch.setattr("recbole_choir.dataset_adapters.raw._BLOCK", block)
        folder = RawFolder(tmp_path, (spec,), "nowhere")
        monkeypatch.setattr("recbole_choir.dataset_adapters.raw.MAX_BAD_SHARE", 1.0)
        rows = pd.concat(folder.chunks("x.dat", rows=2)).to_numpy().tolist()
        assert rows == [["1", "22"], ["333", "4"], ["5", "6:7"]]
        assert folder.reports["x.dat"].bad == {"empty or too few fields": 1}


def test_timestamps_survive_to_the_second(tmp_path: Path) -> None:
    stamps = np.arange(978300760, 978300760 + 90 * 7, 7)
    text = "".join(f"1::{i}::4::{t}\n" for i, t in enumerate(stamps))
    out = convert(write_ml1m(tmp_path / "raw", ratings=text), tmp_path / "out")
    read = pd.read_csv(out / "ml-1m.inter", sep="\t")["timestamp:float"]
    np.testing.assert_array_equal(read.to_numpy(np.int64), stamps)


def test_split_title_keeps_inner_years() -> None:
    title, year = split_title(pd.Series(["2001: A Space (Odyssey) (1968)", "1984", "(1999)"]))
    assert title.tolist() == ["2001: A Space (Odyssey)", "1984", "(1999)"]
    assert year.tolist() == ["1968", "", "1999"]


def test_text_is_safe_for_atomic_files(tmp_path: Path) -> None:
    movies = "x".join(["1193::a\tb  c", ' "q" (1999)::Drama\n661::z (2000)::War\n'])
    out = convert(write_ml1m(tmp_path / "raw", movies=movies), tmp_path / "out")
    # python engine and quoting on: how RecBole reads it
    items = pd.read_csv(out / "ml-1m.item", sep="\t", engine="python", dtype=str)
    assert items["movie_title:token_seq"].tolist() == ["a b cx 'q'", "z"]


def test_ml100k_raw_files(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "u.data").write_text("196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
    (raw / "u.user").write_text("196|49|M|writer|55105\n186|39|F|executive|00000\n")

    def flags(*names: str) -> str:
        return "|".join("1" if g in names else "0" for g in ML100K_GENRES)

    (raw / "u.item").write_bytes(
        (
            f"242|Kolya (1996)|24-Jan-1997||http://x/M/title?Kolya|{flags('Comedy')}\n"
            f"302|L.A. Confidential (1997)|01-Jan-1997||http://x|"
            f"{flags('Crime', 'Film-Noir', 'Mystery', 'Thriller')}\n"
            f"267|unknown||||{flags('unknown')}\n"
            f"1236|Café, Le|01-Jan-1996||u|{flags('Drama')}\n"
        ).encode("ISO-8859-1")
    )
    out = get_adapter("ml-100k").convert(raw, tmp_path / "out", verify=False)
    assert (out / "ml-100k.inter").read_text().splitlines()[1] == "196\t242\t3\t881250949"
    assert (out / "ml-100k.user").read_text().splitlines()[1:] == [
        "196\t49\tM\twriter\t55105",
        "186\t39\tF\texecutive\t00000",
    ]
    assert (out / "ml-100k.item").read_text(encoding="utf-8").splitlines() == [
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
        "242\tKolya\t1996\tComedy",
        "302\tL.A. Confidential\t1997\tCrime Film-Noir Mystery Thriller",
        "267\tunknown\t\tunknown",
        "1236\tCafé, Le\t1996\tDrama",
    ]


def test_find_raw_prefers_the_key_over_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_key = write_ml1m(tmp_path / "key" / "ml-1m")
    by_environment = write_ml1m(tmp_path / "env" / "movielens-1m")
    monkeypatch.setenv("RECBOLE_CHOIR_DATA", str(tmp_path / "env"))
    assert find_raw("ml-1m") == by_environment
    assert find_raw("ml-1m", tmp_path / "key") == by_key
    assert find_raw("ml-1m", by_key) == by_key
    assert find_raw("ml-1m", tmp_path / "elsewhere") == by_environment


def test_find_raw_errors_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECBOLE_CHOIR_DATA", raising=False)
    with pytest.raises(DataError, match=r"did you mean 'ml-1m'\?") as unknown:
        find_raw("ml_1m")
    with pytest.raises(DataError, match=r"movielens-1m/ .*ratings\.dat.*grouplens") as absent:
        find_raw("ml-1m", tmp_path)
    for caught in (unknown, absent):
        assert "\n" not in str(caught.value)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = write_ml1m(tmp_path / "raw")
    arguments = ["ml-1m", "--raw", str(raw), "--out", str(tmp_path / "data")]
    assert main([*arguments, "--no-verify"]) == 0
    assert (tmp_path / "data" / "ml-1m" / "ml-1m.inter").is_file()
    assert main(["ml1m", "--raw", str(raw)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: dataset: no adapter for 'ml1m' (did you mean 'ml-1m'?)")


def test_every_adapter_is_complete() -> None:
    for name, cls in adapters().items():
        assert cls.name == name
        assert cls.source.startswith("https://")
        assert cls.folders
        for raw in cls.files:
            assert set(raw.numeric) | set(raw.required) <= set(raw.columns)
            # how many page views Ali-CCP describes is published as "about 730,000" alone
            assert raw.rows or raw.name.startswith("common_features_")


@pytest.mark.slow
def test_real_ml1m_counts(tmp_path: Path) -> None:
    place = os.environ.get("RECBOLE_CHOIR_DATA")
    if not place:
        pytest.skip("RECBOLE_CHOIR_DATA is not set: the official ml-1m files are not here")
    if not any((Path(place) / f).is_dir() for f in adapters()["ml-1m"].folders):
        pytest.skip("RECBOLE_CHOIR_DATA holds no movielens-1m folder")
    out = get_adapter("ml-1m").convert(find_raw("ml-1m"), tmp_path / "ml-1m")
    inter = pd.read_csv(out / "ml-1m.inter", sep="\t")
    assert len(inter) == 1_000_209
    assert inter["user_id:token"].nunique() == 6_040
    assert inter["item_id:token"].nunique() == 3_706
    assert round(100 * (inter["rating:float"] >= 4).mean(), 2) == 57.52
    items = pd.read_csv(out / "ml-1m.item", sep="\t", dtype=str, keep_default_na=False)
    assert len(items) == 3_883
    assert items["release_year:token"].str.fullmatch(r"(19|2\d)\d\d").all()
    users = pd.read_csv(out / "ml-1m.user", sep="\t", dtype=str)
    assert users["age:token"].nunique() == 7
    assert users["occupation:token"].nunique() == 21
