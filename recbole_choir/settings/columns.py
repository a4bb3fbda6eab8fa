"""Keys that name columns: what each may be, checked before a file is read.

A row's label, its time and its ids are never what a model reads as a feature of the row, nor what a
group is described by.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any, Final

from recbole_choir.errors import nearest
from recbole_choir.settings.base import ConfigLike, read

#: Keys that name the columns without which nothing can be trained.
NEEDED: Final = ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD", "LABEL_FIELD")
#: Keys that give a column to models, to a semantic table or to lifts.
ROLES: Final = (
    "user_attr_fields",
    "item_attr_fields",
    "context_fields",
    "numeric_attr_fields",
    "lift_fields",
    "category_field",
    "title_field",
)
#: Roles of columns of one file, which must be among those that are loaded.
_FILE_OF_ROLE: Final = {
    "user_attr_fields": "user",
    "item_attr_fields": "item",
    "category_field": "item",
    "lift_fields": "item",
    "context_fields": "inter",
}
#: Mappings whose keys are kinds of atomic files.
BY_FILE: Final = ("load_col", "unload_col", "unused_col")
FILES: Final = ("inter", "user", "item")
_INTERVAL: Final = re.compile(r"\s*[\[(]\s*([^,\s]+)\s*,\s*([^,\s]+)\s*[\])]\s*")


def problems(final: Mapping[str, Any]) -> Iterator[str]:
    """One line for each key that names a column it must not, or in no form that can be read.

    Args:
        final: All keys with their values.
    """
    names = {key: final[key] for key in NEEDED}
    for one, two in combinations(sorted(names), 2):
        if names[one] == names[two] and names[one] is not None:
            yield f"{one} and {two}: expected two columns, got {names[one]!r} for both"
    for key, name in names.items():
        if not isinstance(name, str) or not name:
            yield f"{key}: expected the name of a column, got {name!r}"
    never = never_features(final)
    yield from _threshold(final, never)
    for key in ROLES:
        for field in _role(final, key):
            if field in never:
                yield f"{key}: {field!r} cannot be a feature, it is {never[field]}"
    yield from _loaded(final)
    yield from _intervals(final)
    yield from _reading(final)


def _role(final: Mapping[str, Any], key: str) -> list[str]:
    """The columns of a role; none where the value is of a type that its class refuses."""
    value = final.get(key)
    values = value if isinstance(value, (list, tuple)) else [value]
    return [field for field in values if isinstance(field, str)]


def never_features(final: ConfigLike) -> dict[str, str]:
    """Column -> why no model may read it as a feature."""
    never = {
        final["LABEL_FIELD"]: "the label",
        final["TIME_FIELD"]: "the time",
        final["USER_ID_FIELD"]: "an id",
        final["ITEM_ID_FIELD"]: "an id",
    }
    threshold = read(final, "threshold")
    if isinstance(threshold, Mapping):
        for field in threshold:
            never.setdefault(field, "what the label is made from")
    return never


def _threshold(final: Mapping[str, Any], never: Mapping[str, str]) -> Iterator[str]:
    threshold = final.get("threshold")
    if threshold is None:
        return
    if len(threshold) != 1:
        yield f"threshold: expected one field such as {{rating: 4}}, got {threshold}"
        return
    ((field, value),) = threshold.items()
    if never[field] in ("the time", "an id"):
        yield f"threshold: {field!r} cannot be the rating, it is {never[field]}"
    if not _number(value):
        yield f"threshold.{field}: expected a number such as 4, got {value!r}"


def _number(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _loaded(final: Mapping[str, Any]) -> Iterator[str]:
    """Columns by file."""
    further = final.get("additional_feat_suffix") or []
    further = [further] if isinstance(further, str) else further
    known = (*FILES, *map(str, further))
    usable = True
    for key in BY_FILE:
        for kind, columns in (final.get(key) or {}).items():
            if kind not in known:
                yield (
                    f"{key}.{kind}: no such file, expected any of {', '.join(known)}"
                    f"{nearest(str(kind), known)}"
                )
            elif columns is not None and columns != "*" and not _texts(columns):
                usable = False
                yield f"{key}.{kind}: expected a list of columns, got {columns!r}"
    loaded = final.get("load_col")
    if not usable or loaded is None:
        return
    threshold = final.get("threshold")
    label = "LABEL_FIELD"
    needed = {final[key]: key for key in NEEDED if key != label or not threshold}
    needed |= dict.fromkeys(threshold or (), "threshold")
    yield from _lacking("load_col.inter", loaded.get("inter", []), needed)
    for kind, key in (("user", "USER_ID_FIELD"), ("item", "ITEM_ID_FIELD")):
        if loaded.get(kind):
            yield from _lacking(f"load_col.{kind}", loaded[kind], {final[key]: key})
    for key, kind in _FILE_OF_ROLE.items():
        columns = loaded.get(kind, [])
        for field in [] if columns == "*" else _role(final, key):
            if field not in (columns or ()) and field not in never_features(final):
                some = ", ".join(columns or ()) or "none"
                yield (
                    f"{key}: {field!r} is not loaded, expected any of {some}"
                    f"{nearest(field, columns or ())}; see load_col.{kind}"
                )
    if all(columns != "*" for columns in loaded.values()):
        yield from _unknown(final, {c for columns in loaded.values() for c in columns or ()})
    for kind in set(loaded) & set(final.get("unload_col") or ()):
        if loaded[kind]:
            yield f"unload_col.{kind}: expected load_col or unload_col of a file, got both"


#: Keys that name columns of any file: a list of them, or a mapping by them.
_ANYWHERE: Final = (
    "normalize_field",
    "numerical_features",
    "alias_of_user_id",
    "alias_of_item_id",
    "val_interval",
    "discretization",
    "preload_weight",
    "seq_len",
)


def _unknown(final: Mapping[str, Any], loaded: set[str]) -> Iterator[str]:
    names = sorted(map(str, loaded | {final["LABEL_FIELD"]}))
    for key in _ANYWHERE:
        for field in final.get(key) or ():
            if field not in names:
                yield (
                    f"{key}: {field!r} is not loaded, expected any of {', '.join(names)}"
                    f"{nearest(str(field), names)}; see load_col"
                )


def _lacking(where: str, columns: Any, needed: Mapping[str, str]) -> Iterator[str]:
    if columns is None or columns == "*":
        return
    for name, key in needed.items():
        if name not in columns:
            yield (
                f"{where}: expected {name} among the columns, as {key} says, got "
                f"{', '.join(columns) or 'none'}{nearest(str(name), columns)}"
            )


def _texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(v, str) and v for v in value)


def _intervals(final: Mapping[str, Any]) -> Iterator[str]:
    """RecBole passes over an interval it cannot read; here it is an error."""
    given = {key: final.get(key) for key in ("user_inter_num_interval", "item_inter_num_interval")}
    fields = final.get("val_interval") or {}
    given |= {f"val_interval.{field}": value for field, value in fields.items()}
    for key, value in given.items():
        if value is None or (key.startswith("val_interval") and _texts(value)):
            continue
        if not isinstance(value, str) or not all(map(_interval, value.split(";"))):
            more = ", or a list of values" if key.startswith("val_interval") else ""
            want = f"intervals such as '[5,inf)' or '[0,3);(3,9]'{more}"
            yield f"{key}: expected {want}, got {value!r}"


def _interval(text: str) -> bool:
    found = _INTERVAL.fullmatch(text)
    if not found:
        return False
    try:
        low, high = float(found[1]), float(found[2])
    except ValueError:
        return False
    return low <= high


def _reading(final: Mapping[str, Any]) -> Iterator[str]:
    """How files are read."""
    encoding = final.get("encoding") or "utf-8"
    try:
        codecs.lookup(encoding)
    except LookupError:
        yield f"encoding: no encoding named {encoding!r}, expected one such as utf-8 or latin-1"
    separator, inner = final["field_separator"], final["seq_separator"]
    if len(separator) != 1 or separator in '\r\n"':
        yield f"field_separator: expected one character, got {separator!r}"
    if not inner or inner == separator:
        yield f"seq_separator: expected a text other than field_separator, got {inner!r}"
    parts = final.get("benchmark_filename")
    if parts is not None and not (_texts(parts) and len(set(parts)) == len(parts) == 3):
        yield (
            "benchmark_filename: expected three different names, of training, validation and test "
            f"rows, such as [part1,part2,part3], got {parts!r}"
        )
    for key in ("additional_feat_suffix", "alias_of_user_id", "alias_of_item_id"):
        value = final.get(key)
        if value is not None and not isinstance(value, str) and not _texts(value):
            yield f"{key}: expected a list of names, got {value!r}"
    users, items = (set(final.get(f"alias_of_{kind}_id") or ()) for kind in ("user", "item"))
    users, items = users | {final["USER_ID_FIELD"]}, items | {final["ITEM_ID_FIELD"]}
    for field in sorted(users & items, key=str):
        yield f"alias_of_user_id: {field!r} stands for items as well, expected one of the two"
    keep = final.get("rm_dup_inter")
    if keep not in (None, "first", "last"):
        yield f"rm_dup_inter: expected first, last or null, got {keep!r}"
    for field, length in (final.get("seq_len") or {}).items():
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            yield f"seq_len.{field}: expected a whole number of at least 1, got {length!r}"
    yield from _weights_and_buckets(final)


def _weights_and_buckets(final: Mapping[str, Any]) -> Iterator[str]:
    for field, source in (final.get("preload_weight") or {}).items():
        if not isinstance(source, str):
            yield f"preload_weight.{field}: expected the name of a column, got {source!r}"
    for field, way in (final.get("discretization") or {}).items():
        ok = isinstance(way, Mapping) and set(way) <= {"method", "bucket"}
        if not ok or way.get("method") not in ("ED", "EF", "LD") or not _bucket(way):
            yield (
                f"discretization.{field}: expected {{method: ED, bucket: 8}}, {{method: EF, "
                f"bucket: 8}} or {{method: LD}}, got {way!r}"
            )


def _bucket(way: Mapping[str, Any]) -> bool:
    bucket = way.get("bucket")
    if way["method"] == "LD":
        return bucket is None
    return isinstance(bucket, int) and not isinstance(bucket, bool) and bucket >= 1
