"""A user's own files: which column plays which role, read from YAML and checked by name."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from recbole_choir.errors import DataError, nearest

from .positives import OPTIONS

#: Between the values of a list in an atomic file.
LIST_SEPARATOR = "|"
TYPES = ("token", "float", "list", "words")
UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3_600.0, "d": 86_400.0}
#: Names that atomic files use themselves.
RESERVED = ("user_id", "item_id", "label", "timestamp", "title")
_ROOT = "own_data"


@dataclass(frozen=True)
class Column:
    """One column with a role.

    Args:
        column: Its name in the user's file.
        field: Its name in the atomic file.
        kind: token | float | list | words.
        separator: Between the values of a list.
    """

    column: str
    field: str
    kind: str = "token"
    separator: str = ","

    @property
    def typed(self) -> str:
        """Name in the head of an atomic file."""
        kinds = {"token": "token", "float": "float", "list": "token_seq", "words": "token_seq"}
        return f"{self.field}:{kinds[self.kind]}"


@dataclass(frozen=True)
class Label:
    """Where labels come from.

    Args:
        column: The column; None: every row is a positive.
        at_least: A number from which on a row is a positive; None: 0 and 1 are in the file.
        positive, negative: Values of an action column; rows with others are left out.
    """

    column: str | None = None
    at_least: float | None = None
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()

    @property
    def only_positives(self) -> bool:
        """Whether negatives must be drawn."""
        return self.column is None or (bool(self.positive) and not self.negative)


@dataclass(frozen=True)
class Interactions:
    """Columns of the interactions.

    Args:
        files: Names or patterns.
        user, item: Columns of the ids.
        time: Column of the time.
        unit: What one of a number is; None: seconds.
        time_format: Of a text, as in ``strptime``; None: ISO.
        label: Where labels come from.
        contexts: Known at the time of a row; the query is one of them.
    """

    files: tuple[str, ...]
    user: str
    item: str
    time: str
    unit: str | None
    time_format: str | None
    label: Label
    contexts: tuple[Column, ...]


@dataclass(frozen=True)
class Side:
    """Columns of a table of users or items.

    Args:
        files: Names or patterns.
        id: Column of the id.
        attributes: Model features.
        text: Columns whose words are joined to the item's text.
        category: The category, one of the fields, or None.
    """

    files: tuple[str, ...]
    id: str
    attributes: tuple[Column, ...]
    text: tuple[str, ...] = ()
    category: Column | None = None

    @property
    def fields(self) -> tuple[Column, ...]:
        """Attributes and category, each once."""
        if self.category is None or self.category in self.attributes:
            return self.attributes
        return (*self.attributes, self.category)


@dataclass(frozen=True)
class OwnMapping:
    """All of a user's mapping; make one with :func:`read_mapping`.

    Args:
        folder: Where the files lie, or None.
        interactions: The rows.
        users, items: Their tables, or None.
        negatives: Options of the draws, or None where the labels are in the files.
        separator: Of CSV files.
        encoding: Of CSV files.
        missing: Texts that stand for a missing value, next to the empty one.
    """

    folder: str | None
    interactions: Interactions
    users: Side | None
    items: Side | None
    negatives: dict[str, Any] | None
    separator: str
    encoding: str
    missing: tuple[str, ...]

    def config(self) -> dict[str, Any]:
        """RecBole's keys that follow from the mapping: columns and roles."""
        contexts = [c.field for c in self.interactions.contexts]
        load = {"inter": ["user_id", "item_id", "label", "timestamp", *contexts]}
        out: dict[str, Any] = {
            "field_separator": "\t",
            "seq_separator": LIST_SEPARATOR,
            "USER_ID_FIELD": "user_id",
            "ITEM_ID_FIELD": "item_id",
            "TIME_FIELD": "timestamp",
            "LABEL_FIELD": "label",
            "load_col": load,
            "context_fields": contexts or None,
            "user_attr_fields": [],
            "item_attr_fields": [],
        }
        if self.users is not None:
            out["user_attr_fields"] = [c.field for c in self.users.attributes]
            load["user"] = ["user_id", *(c.field for c in self.users.fields)]
        if self.items is not None:
            out["item_attr_fields"] = [c.field for c in self.items.attributes]
            load["item"] = ["item_id", *(c.field for c in self.items.fields)]
            if self.items.category is not None:
                out["category_field"] = self.items.category.field
            if self.items.text:
                out["title_field"] = "title"
        return out


def read_mapping(content: Any) -> OwnMapping:
    """Read the value of the key ``own_data``.

    Args:
        content: As the YAML has it.

    Returns:
        The mapping, with defaults filled in.

    Raises:
        DataError: A key is unknown or missing, or a value is not what it should be; one line with
            the place in the YAML.
    """
    top = _section(
        content, _ROOT, ("folder", "interactions", "users", "items", "negatives", "csv", "missing")
    )
    if "interactions" not in top:
        raise DataError(
            f"{_ROOT}: expected a section 'interactions', got {', '.join(top) or 'none'}"
        )
    interactions = _interactions(top["interactions"])
    users = _side(top.get("users"), "users")
    items = _side(top.get("items"), "items")
    csv = _section(top.get("csv") or {}, f"{_ROOT}.csv", ("separator", "encoding"))
    fields = [c.field for c in interactions.contexts]
    fields += [c.field for side in (users, items) if side is not None for c in side.fields]
    twice = next((f for f in fields if fields.count(f) > 1), None)
    if twice is not None:
        raise DataError(
            f"{_ROOT}: field '{twice}' has two columns; rename one: {{column: {twice}, as: other}}"
        )
    separator = _text(csv, "separator", f"{_ROOT}.csv", optional=True) or ","
    if len(separator) != 1 or separator in '\r\n"':
        raise DataError(f"{_ROOT}.csv.separator: expected one character, got {separator!r}")
    encoding = _text(csv, "encoding", f"{_ROOT}.csv", optional=True) or "utf-8-sig"
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise DataError(
            f"{_ROOT}.csv.encoding: no encoding named '{encoding}', expected one such as latin-1"
        ) from None
    return OwnMapping(
        folder=_text(top, "folder", _ROOT, optional=True),
        interactions=interactions,
        users=users,
        items=items,
        negatives=_negatives(top, interactions.label),
        separator=separator,
        encoding=encoding,
        missing=tuple(_texts(top.get("missing", []), f"{_ROOT}.missing")),
    )


def _interactions(content: Any) -> Interactions:
    where = f"{_ROOT}.interactions"
    keys = ("files", "user", "item", "time", "label", "action", "context", "query")
    section = _section(content, where, keys)
    time = section.get("time")
    if time is None:
        raise DataError(f"{where}.time: expected a column; without an order no history is free of"
                        " leaks")  # fmt: skip
    if isinstance(time, str):
        time = {"column": time}
    when = _section(time, f"{where}.time", ("column", "unit", "format"))
    unit = _text(when, "unit", f"{where}.time", optional=True)
    if unit is not None and unit not in UNITS:
        raise DataError(f"{where}.time.unit: expected one of {', '.join(UNITS)}, got '{unit}'")
    if unit is not None and "format" in when:
        raise DataError(
            f"{where}.time: expected unit (of a number) or format (of a text), got both"
        )
    form = _text(when, "format", f"{where}.time", optional=True)
    if form is not None and not re.search(r"%[YyGcxDFs+]|ISO8601|mixed", form):
        raise DataError(
            f"{where}.time.format: expected a year in it, such as '%d/%m/%Y', got '{form}': every "
            "time would lie in 1900"
        )
    contexts = _columns(section.get("context", []), f"{where}.context")
    if section.get("query") is not None:
        query = _columns([section["query"]], f"{where}.query")[0]
        contexts = (*contexts, Column(query.column, query.field, "words"))
    read = Interactions(
        files=_files(section, where),
        user=_needed(section, "user", where),
        item=_needed(section, "item", where),
        time=_needed(when, "column", f"{where}.time"),
        unit=unit,
        time_format=form,
        label=_label(section, where),
        contexts=contexts,
    )
    _no_leak(read, where)
    return read


def _no_leak(read: Interactions, where: str) -> None:
    """What models may read of a row is neither its label, its time nor an id, under any name."""
    roles = {"user": read.user, "item": read.item, "time": read.time}
    if read.label.column is not None:
        roles["label"] = read.label.column
    for one, two in combinations(roles, 2):
        if roles[one] == roles[two]:
            raise DataError(
                f"{where}: expected two columns for {one} and {two}, got '{roles[one]}' for both"
            )
    never = {column: f"the {role}" for role, column in roles.items()}
    for column in read.contexts:
        if column.column in never:
            raise DataError(
                f"{where}: column '{column.column}' is {never[column.column]} and cannot be "
                "context or query as well: models would read it"
            )


def _label(section: Mapping[str, Any], where: str) -> Label:
    if "label" in section and "action" in section:
        raise DataError(f"{where}: expected label or action, got both")
    if "action" in section:
        inner = f"{where}.action"
        action = _section(section["action"], inner, ("column", "positive", "negative"))
        positive = tuple(_texts(action.get("positive", []), f"{inner}.positive"))
        negative = tuple(_texts(action.get("negative", []), f"{inner}.negative"))
        if not positive:
            raise DataError(f"{inner}.positive: expected at least one value such as [buy]")
        both = set(positive) & set(negative)
        if both:
            raise DataError(f"{inner}: value '{min(both)}' is both positive and negative")
        return Label(_needed(action, "column", inner), None, positive, negative)
    value = section.get("label")
    if value is None:
        return Label()
    if isinstance(value, str):
        return Label(value)
    inner = f"{where}.label"
    label = _section(value, inner, ("column", "at_least"))
    limit = label.get("at_least")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, (int, float))):
        raise DataError(f"{inner}.at_least: expected a number such as 4, got {limit!r}")
    return Label(_needed(label, "column", inner), None if limit is None else float(limit))


def _side(content: Any, name: str) -> Side | None:
    if content is None:
        return None
    where = f"{_ROOT}.{name}"
    keys = ("files", "id", "attributes") + (("text", "category") if name == "items" else ())
    section = _section(content, where, keys)
    attributes = _columns(section.get("attributes", []), f"{where}.attributes")
    category = None
    if section.get("category") is not None:
        category = _columns([section["category"]], f"{where}.category")[0]
        if category.kind not in ("token", "list"):
            raise DataError(f"{where}.category: expected type token or list, got '{category.kind}'")
        same = next((a for a in attributes if a.field == category.field), None)
        if same is not None:
            # Named as an attribute too: one field, read as the fuller of the two says.
            attributes = tuple(category if a is same else a for a in attributes)
    own = _needed(section, "id", where)
    text = _texts(section.get("text", []), f"{where}.text")
    used = [c.column for c in (*attributes, *([] if category is None else [category]))]
    for column in (*used, *text):
        if column == own:
            raise DataError(
                f"{where}: column '{own}' is the id and cannot be an attribute or text as well: "
                "an id says nothing of ids that training has not seen"
            )
    return Side(
        files=_files(section, where),
        id=own,
        attributes=attributes,
        text=tuple(text),
        category=category,
    )


def _negatives(top: Mapping[str, Any], label: Label) -> dict[str, Any] | None:
    where = f"{_ROOT}.negatives"
    given = top.get("negatives")
    if given is None:
        if label.only_positives:
            raise DataError(
                f"{_ROOT}: every row is a positive; expected interactions.label, action.negative or"
                f" a section 'negatives' such as {{negatives: popularity, seed: 2017}}"
            )
        return None
    if not label.only_positives:
        raise DataError(f"{where}: the labels are in the files, expected no section 'negatives'")
    section = _section(given, where, tuple(OPTIONS))
    return {**OPTIONS, **section}


def _section(content: Any, where: str, known: Iterable[str]) -> dict[str, Any]:
    known = tuple(known)
    if not isinstance(content, Mapping):
        raise DataError(f"{where}: expected a section with {', '.join(known)}, got {content!r}")
    for key in content:
        if key not in known:
            raise DataError(
                f"{where}: no key '{key}'{nearest(str(key), known)}, expected any of"
                f" {', '.join(known)}"
            )
    return dict(content)


def _text(section: Mapping[str, Any], key: str, where: str, optional: bool = False) -> str | None:
    value = section.get(key)
    if value is None and optional:
        return None
    if not isinstance(value, str) or not value:
        raise DataError(f"{where}.{key}: expected a text, got {value!r}")
    return value


def _needed(section: Mapping[str, Any], key: str, where: str) -> str:
    if section.get(key) is None:
        raise DataError(f"{where}.{key}: missing, expected the name of a column")
    value = _text(section, key, where)
    return str(value)


def _texts(value: Any, where: str) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, Sequence):
        raise DataError(f"{where}: expected a list of texts, got {value!r}")
    for one in values:
        if isinstance(one, (Mapping, Sequence)) and not isinstance(one, str):
            raise DataError(f"{where}: expected a list of texts, got {one!r} in it")
    return [str(one) for one in values]


def _files(section: Mapping[str, Any], where: str) -> tuple[str, ...]:
    files = _texts(section.get("files", []), f"{where}.files")
    if not files:
        raise DataError(
            f"{where}.files: missing, expected a file or a pattern such as clicks-*.parquet"
        )
    for name in files:
        if not name or name.startswith(("/", "~")) or "\0" in name:
            raise DataError(
                f"{where}.files: expected a name inside {_ROOT}.folder, got '{name}'; say the "
                "folder there"
            )
    return tuple(files)


def _columns(value: Any, where: str) -> tuple[Column, ...]:
    values = [value] if isinstance(value, (str, Mapping)) else value
    if not isinstance(values, Sequence):
        raise DataError(f"{where}: expected a list of columns, got {value!r}")
    return tuple(_column(one, where) for one in values)


def _column(value: Any, where: str) -> Column:
    if isinstance(value, str):
        value = {"column": value}
    section = _section(value, where, ("column", "as", "type", "separator"))
    column = _needed(section, "column", where)
    field = _text(section, "as", where, optional=True) or re.sub(r"[\s:\x00-\x1f]+", "_", column)
    if field in RESERVED or re.search(r"[\s:]", field):
        raise DataError(
            f"{where}: field '{field}' cannot be used ({', '.join(RESERVED)} are the atomic files'"
            f" own; no blanks, no colons); rename it: {{column: {column}, as: other}}"
        )
    kind = _text(section, "type", where, optional=True)
    separator = _text(section, "separator", where, optional=True)
    if kind is not None and kind not in TYPES:
        raise DataError(
            f"{where}.type: expected one of {', '.join(TYPES)}, got '{kind}'{nearest(kind, TYPES)}"
        )
    if separator is not None and kind not in (None, "list"):
        raise DataError(f"{where}.separator: only a list has one, got type '{kind}'")
    return Column(column, field, kind or ("list" if separator else "token"), separator or ",")
