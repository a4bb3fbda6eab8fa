"""Which loaded columns are model features, and which must never be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recbole_choir.errors import ConfigError, DataError, nearest
from recbole_choir.settings.columns import never_features


@dataclass(frozen=True)
class Roles:
    """The roles of a dataset's fields.

    Args:
        users, items, contexts: Model features by their source.
        category: Item field with the category, or None.
        title: Text column of the ``.item`` file, or None; never a feature.
        rated: The field that labels are made from, or None where the label is a column itself.
    """

    users: tuple[str, ...]
    items: tuple[str, ...]
    contexts: tuple[str, ...]
    category: str | None
    title: str | None
    rated: str | None


def find_roles(
    config: Any,
    inter: Sequence[str],
    user: Sequence[str],
    item: Sequence[str],
    types: dict[str, str],
) -> Roles:
    """Read the roles from the config and check them against the loaded columns.

    Args:
        config: The run's configuration.
        inter, user, item: Columns loaded from each file.
        types: Field -> RecBole's type.

    Raises:
        DataError: The time or the label is missing or of the wrong type.
        ConfigError: A role names a column that is not loaded, or one that must not be a feature.
    """
    name = config["dataset"]
    time = config["TIME_FIELD"]
    uid, iid = config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]
    if time is None or time not in inter or types[time] != "float":
        raise DataError(
            f"TIME_FIELD: expected a float column {time!r} in {name}.inter, got"
            f" {_listed(inter, types)}; see load_col.inter"
        )
    rated = _rated(config, inter, types)
    title, category = config["title_field"], config["category_field"]
    loaded_items = [f for f in item if f != iid]
    if category is not None and category not in loaded_items:
        raise ConfigError(
            f"category_field: expected a loaded field of {name}.item, got {category!r}"
            f" of {loaded_items}{nearest(category, loaded_items)}; see load_col.item"
        )
    if category is not None and not types[category].startswith("token"):
        raise ConfigError(
            f"category_field: expected a token or token_seq field,"
            f" got {category!r} of type {types[category]}"
        )
    never = never_features(config)
    if title is not None:
        never[title] = "the title_field, text for the semantic table"
    return Roles(
        users=_chosen(config, "user_attr_fields", user, {uid, title}, never, f"{name}.user"),
        items=_chosen(config, "item_attr_fields", item, {iid, title}, never, f"{name}.item"),
        contexts=_chosen(config, "context_fields", inter, set(inter), never, f"{name}.inter"),
        category=category,
        title=title,
        rated=rated,
    )


def _rated(config: Any, inter: Sequence[str], types: dict[str, str]) -> str | None:
    name, label, threshold = config["dataset"], config["LABEL_FIELD"], config["threshold"]
    if threshold is None:
        if label not in inter:
            raise DataError(
                f"LABEL_FIELD: expected a column {label!r} in {name}.inter, or threshold to make it"
                f" from a rating such as {{rating: 4}}, got {_listed(inter, types)}"
            )
        if types[label] != "float":
            raise DataError(f"LABEL_FIELD: expected {label!r} to be float, got {types[label]}")
        return None
    if len(threshold) != 1:
        raise ConfigError(f"threshold: expected one field such as {{rating: 4}}, got {threshold}")
    (field,) = threshold
    if field not in inter or types[field] != "float":
        raise DataError(
            f"threshold: expected a float column of {name}.inter, got {field!r} of"
            f" {_listed(inter, types)}{nearest(field, inter)}"
        )
    return str(field)


def _chosen(
    config: Any,
    key: str,
    loaded: Sequence[str],
    left_out: set[str | None],
    never: dict[str, str],
    file: str,
) -> tuple[str, ...]:
    wanted = config[key]
    if wanted is None:
        return tuple(f for f in loaded if f not in left_out)
    for field in wanted:
        if field in never:
            raise ConfigError(f"{key}: {field!r} cannot be a feature, it is {never[field]}")
        if field not in loaded:
            raise ConfigError(
                f"{key}: expected loaded fields of {file}, got {field!r}, not of {list(loaded)}"
                f"{nearest(field, loaded)}"
            )
    return tuple(dict.fromkeys(wanted))


def _listed(names: Sequence[str], types: dict[str, str]) -> str:
    return ", ".join(f"{n}:{types[n]}" for n in names)
