"""No role may be the label, the time, an id or what is made from them, under whatever name."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest
import yaml
from small_dataset import ITEMS, START, USERS, Door, rows, text_of, write_dataset

Cells = list[str]

# --- by name: before a file is read ----------------------------------------------------------

NAMES = [
    ("context_fields", "label", "it is the label"),
    ("context_fields", "timestamp", "it is the time"),
    ("context_fields", "user_id", "it is an id"),
    ("context_fields", "item_id", "it is an id"),
    ("user_attr_fields", "user_id", "it is an id"),
    ("user_attr_fields", "label", "it is the label"),
    ("user_attr_fields", "timestamp", "it is the time"),
    ("item_attr_fields", "item_id", "it is an id"),
    ("item_attr_fields", "label", "it is the label"),
    ("item_attr_fields", "timestamp", "it is the time"),
    ("numeric_attr_fields", "timestamp", "it is the time"),
    ("numeric_attr_fields", "label", "it is the label"),
    ("numeric_attr_fields", "user_id", "it is an id"),
    ("lift_fields", "label", "it is the label"),
    ("lift_fields", "timestamp", "it is the time"),
    ("lift_fields", "item_id", "it is an id"),
    ("category_field", "label", "it is the label"),
    ("category_field", "timestamp", "it is the time"),
    ("category_field", "item_id", "it is an id"),
    ("title_field", "label", "it is the label"),
    ("title_field", "timestamp", "it is the time"),
    ("title_field", "item_id", "it is an id"),
]


@pytest.mark.parametrize(("key", "name", "why"), NAMES, ids=[f"{k}-{n}" for k, n, _ in NAMES])
def test_no_role_is_the_label_the_time_or_an_id(
    run_small: Door, tmp_path: Path, key: str, name: str, why: str
) -> None:
    write_dataset(tmp_path, inter="never read")
    value = name if key in ("category_field", "title_field") else f"[{name}]"
    line = run_small(**{key: value}).line
    assert f"{key}: '{name}' cannot be a feature, {why}" in line


DOUBLES = [
    ({"TIME_FIELD": "label"}, "LABEL_FIELD and TIME_FIELD: expected two columns, got 'label'"),
    ({"LABEL_FIELD": "user_id"}, "LABEL_FIELD and USER_ID_FIELD: expected two columns"),
    ({"ITEM_ID_FIELD": "user_id"}, "ITEM_ID_FIELD and USER_ID_FIELD: expected two columns"),
    ({"TIME_FIELD": "item_id"}, "ITEM_ID_FIELD and TIME_FIELD: expected two columns"),
    (
        {"threshold": "{timestamp: 4}"},
        "threshold: 'timestamp' cannot be the rating, it is the time",
    ),
    ({"threshold": "{user_id: 4}"}, "threshold: 'user_id' cannot be the rating, it is an id"),
    (
        {"threshold": "{price: 4}"},
        "context_fields: 'price' cannot be a feature, it is what the label is made from",
    ),
]


@pytest.mark.parametrize(("keys", "message"), DOUBLES, ids=[str(k) for k, _ in DOUBLES])
def test_a_column_has_one_of_these_roles(
    run_small: Door, tmp_path: Path, keys: dict[str, str], message: str
) -> None:
    write_dataset(tmp_path, inter="never read")
    assert message in run_small(**keys).line


# --- by content ----------------------------------------------------------------------------------


def with_place(change: Callable[[int, Cells], str], n: int = 240) -> list[Cells]:
    """Rows whose column ``place`` is made by ``change(number, cells)``."""
    out = rows(n)
    for number, cells in enumerate(out):
        cells[4] = change(number, cells)
    return out


def _iso(number: int, cells: Cells) -> str:
    return datetime.fromtimestamp(int(cells[3]), timezone.utc).isoformat(" ")[:19]


LABEL = "it is the label in another form"
DISGUISES: list[tuple[str, Callable[[int, Cells], str], str]] = [
    ("the label", lambda n, c: c[2], LABEL),
    ("yes and no", lambda n, c: "yes" if c[2] == "1" else "no", LABEL),
    ("upside down", lambda n, c: str(1 - int(c[2])), LABEL),
    ("several values a label", lambda n, c: f"{c[2]}{n % 3}", LABEL),
    ("a hundred values a label", lambda n, c: f"v{c[2]}-{n % 50}", LABEL),
    ("one label only where bought", lambda n, c: f"sale{n % 4}" if c[2] == "1" else "", LABEL),
    ("the user", lambda n, c: c[0], "it is user_id in another form"),
    ("the user renamed", lambda n, c: f"member {c[0][1:]}", "it is user_id in another form"),
    ("the item", lambda n, c: c[1], "it is item_id in another form"),
    ("the item renamed", lambda n, c: f"article-{c[1]}", "it is item_id in another form"),
    ("the time", lambda n, c: c[3], "it is the time in another form"),
    ("the time as text", _iso, "it is the time in another form"),
]


@pytest.mark.parametrize(("name", "change", "why"), DISGUISES, ids=[d[0] for d in DISGUISES])
def test_a_context_made_from_them_is_refused(
    run_small: Door, tmp_path: Path, name: str, change: Callable[[int, Cells], str], why: str
) -> None:
    write_dataset(tmp_path, inter=text_of(with_place(change)))
    line = run_small().line
    assert "small.inter, place: " in line
    assert why in line
    assert "take it out of context_fields" in line


NUMBERS: list[tuple[str, Callable[[int, Cells], str], str]] = [
    ("in ms", lambda n, c: c[3] + "000", "the time in another form"),
    ("in days", lambda n, c: str(int(c[3]) / 86400), "the time in another form"),
    ("since the start", lambda n, c: str(int(c[3]) - START), "the time in another form"),
    ("backwards", lambda n, c: str(2e9 - int(c[3])), "the time in another form"),
    ("a rating", lambda n, c: str(1 + n % 3 if c[2] == "0" else 4 + n % 2), LABEL),
    ("a score", lambda n, c: str((n * 7919 % 1000) / 1000 + int(c[2])), LABEL),
    ("the label times a number", lambda n, c: str(3 * int(c[2]) + 1), LABEL),
]


@pytest.mark.parametrize(("name", "change", "why"), NUMBERS, ids=[d[0] for d in NUMBERS])
def test_a_number_made_from_them_is_refused(
    run_small: Door, tmp_path: Path, name: str, change: Callable[[int, Cells], str], why: str
) -> None:
    cells = rows()
    for number, row in enumerate(cells):
        row[5] = change(number, row)
    write_dataset(tmp_path, inter=text_of(cells))
    line = run_small().line
    assert "small.inter, price: " in line
    assert why in line


def test_a_rating_behind_a_threshold_is_found_in_a_copy(run_small: Door, tmp_path: Path) -> None:
    cells = rows()
    for number, row in enumerate(cells):
        row[5] = str(1 + (number * 7) % 5)
        row[4] = f"{row[5]} stars"
    write_dataset(tmp_path, inter=text_of(cells))
    line = run_small(threshold="{price: 4}", context_fields="[place]").line
    assert "small.inter, place: each of its values has one label only" in line


NOISY: list[tuple[str, int, Callable[[random.Random, Cells], str], str]] = [
    (
        "one in ten is wrong",
        4,
        lambda d, c: c[2] if d.random() > 0.1 else "0",
        "of the label's variance",
    ),
    (
        "one in five is by chance",
        4,
        lambda d, c: c[2] if d.random() > 0.2 else str(d.randrange(2)),
        "of the label's variance",
    ),
    (
        "a score with noise",
        5,
        lambda d, c: f"{int(c[2]) + d.gauss(0, 0.4):.6f}",
        "alone give an AUC of 0.9",
    ),
    ("the time with noise", 5, lambda d, c: str(int(c[3]) + d.randrange(2000)), "with the time"),
]


@pytest.mark.parametrize(("name", "column", "change", "figure"), NOISY, ids=[d[0] for d in NOISY])
def test_what_is_nearly_the_label_is_told_with_a_figure(
    run_small: Door,
    tmp_path: Path,
    name: str,
    column: int,
    change: Callable[[random.Random, Cells], str],
    figure: str,
) -> None:
    draw = random.Random(1)
    cells = rows()
    for row in cells:
        row[column] = change(draw, row)
    write_dataset(tmp_path, inter=text_of(cells))
    answer = run_small()
    assert answer.code == 0
    warned = [x for x in answer.err.splitlines() if "small.inter" in x]
    assert len(warned) == 1
    assert figure in warned[0]


def test_what_says_much_and_not_too_much_is_silent(run_small: Door, tmp_path: Path) -> None:
    draw = random.Random(1)
    cells = rows()
    for row in cells:
        row[4] = row[2] if draw.random() < 0.35 else str(draw.randrange(2))
        row[5] = f"{int(row[2]) + draw.gauss(0, 2):.6f}"
    write_dataset(tmp_path, inter=text_of(cells))
    answer = run_small()
    assert answer.code == 0
    assert "small.inter" not in answer.err


@pytest.mark.parametrize("suffix", ["user", "item"])
def test_an_attribute_is_not_the_id(run_small: Door, tmp_path: Path, suffix: str) -> None:
    head, *lines = (USERS if suffix == "user" else ITEMS).splitlines()
    name = head.split("\t")[2].split(":")[0]
    copied = ["\t".join([*line.split("\t")[:2], line.split("\t")[0]]) for line in lines]
    write_dataset(tmp_path, **{suffix: "\n".join([head, *copied]) + "\n"})
    line = run_small().line
    assert f"small.{suffix}, {name}: it is {suffix}_id in another form" in line


# --- own data: the same, by name and by content --------------------------------------------------

OWN = """
folder: .
interactions:
  files: clicks.csv
  user: who
  item: what
  time: when
  label: bought
  context: [device]
  query: asked
users: {files: users.csv, id: who, attributes: [age]}
items: {files: items.csv, id: what, attributes: [maker], text: [name], category: kind}
"""
OWN_NAMES: list[tuple[str, tuple[str, ...], object, str]] = [
    *(
        (f"context {column}", ("interactions", "context"), [column], f"'{column}' is the {role}")
        for column, role in (
            ("who", "user"),
            ("what", "item"),
            ("when", "time"),
            ("bought", "label"),
        )
    ),
    *(
        (
            f"context {column} renamed",
            ("interactions", "context"),
            [{"column": column, "as": "fine"}],
            f"'{column}' is the {role}",
        )
        for column, role in (
            ("who", "user"),
            ("what", "item"),
            ("when", "time"),
            ("bought", "label"),
        )
    ),
    *(
        (f"query {column}", ("interactions", "query"), column, f"'{column}' is the {role}")
        for column, role in (
            ("who", "user"),
            ("what", "item"),
            ("when", "time"),
            ("bought", "label"),
        )
    ),
    ("item is user", ("interactions", "item"), "who", "expected two columns for user and item"),
    ("time is item", ("interactions", "time"), "what", "expected two columns for item and time"),
    ("label is time", ("interactions", "label"), "when", "expected two columns for time and label"),
    ("label is user", ("interactions", "label"), "who", "expected two columns for user and label"),
    ("attribute is id", ("users", "attributes"), ["who"], "column 'who' is the id"),
    ("attribute is id, items", ("items", "attributes"), ["what"], "column 'what' is the id"),
    (
        "attribute is id, renamed",
        ("items", "attributes"),
        [{"column": "what", "as": "sku"}],
        "column 'what' is the id",
    ),
    ("category is id", ("items", "category"), "what", "column 'what' is the id"),
    ("text is id", ("items", "text"), ["what"], "column 'what' is the id"),
]


def own_files(folder: Path, device: Callable[[int, Cells], str] | None = None) -> None:
    cells = with_place(device) if device else rows()
    lines = [",".join([*row[:5], "red shoes"]) for row in cells]
    (folder / "clicks.csv").write_text(
        "who,what,bought,when,device,asked\n" + "\n".join(lines) + "\n"
    )
    users = USERS.splitlines()[1:]
    (folder / "users.csv").write_text(
        "who,age,town\n" + "\n".join(u.replace("\t", ",") for u in users) + "\n"
    )
    items = [f"{x.split()[0]},{x.split()[1]},{x.split()[2]},Thing" for x in ITEMS.splitlines()[1:]]
    (folder / "items.csv").write_text("what,kind,maker,name\n" + "\n".join(items) + "\n")


def run_own(door: Door, folder: Path, content: object) -> object:
    (folder / "mine.yaml").write_text(yaml.safe_dump({"own_data": content}))
    return door(
        *("--model=Base", "--dataset=mine", "--config_files=mine.yaml", "--epochs=1"),
        f"--raw_data_path={folder}",
        f"--data_path={folder / 'data'}",
        f"--record_dir={folder / 'records'}",
        f"--checkpoint_dir={folder / 'saved'}",
    )


def own(path: tuple[str, ...] = (), value: object = None) -> dict[str, object]:
    content = yaml.safe_load(OWN)
    node = content
    for key in path[:-1]:
        node = node[key]
    if path:
        node[path[-1]] = value
    return dict(content)


def test_the_mapping_itself_runs(door: Door, tmp_path: Path) -> None:
    own_files(tmp_path)
    answer = run_own(door, tmp_path, own())
    assert answer.code == 0, answer.err  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "path", "value", "message"), OWN_NAMES, ids=[o[0] for o in OWN_NAMES]
)
def test_own_data_refuses_alike(
    door: Door, tmp_path: Path, name: str, path: tuple[str, ...], value: object, message: str
) -> None:
    own_files(tmp_path)
    answer = run_own(door, tmp_path, own(path, value))
    assert message in answer.line  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "change", "why"), DISGUISES, ids=[d[0] for d in DISGUISES])
def test_own_data_refuses_what_is_made_from_them(
    door: Door, tmp_path: Path, name: str, change: Callable[[int, Cells], str], why: str
) -> None:
    own_files(tmp_path, change)
    line = run_own(door, tmp_path, own()).line  # type: ignore[attr-defined]
    assert "mine.inter, device: " in line
    assert why in line
