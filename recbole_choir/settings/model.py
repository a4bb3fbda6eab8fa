"""Typed reading of a model's settings: a wrong value is one clear line, not a later traceback."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, Protocol

from recbole_choir.errors import ConfigError, nearest


class ConfigLike(Protocol):
    """What a model needs of a configuration: RecBole's ``Config`` and a plain dict both fit."""

    def __getitem__(self, key: str) -> Any: ...

    def __contains__(self, key: object) -> bool: ...


def read(config: ConfigLike, key: str) -> Any:
    """Return the value of ``key``, or None where the key is absent or null."""
    # RecBole's Config has no get().
    return config[key] if key in config else None  # noqa: SIM401


def read_bool(config: ConfigLike, key: str, default: bool) -> bool:
    """Read a switch.

    Args:
        config: Where to read.
        key: Name of the setting.
        default: The value where the key is absent or null.

    Raises:
        ConfigError: If the value is not a bool (``"False"`` in quotes would count as true).
    """
    value = read(config, key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ConfigError(f"{key}: expected True or False, got {value!r}")
    return value


def read_number(
    config: ConfigLike,
    key: str,
    default: float,
    low: float = float("-inf"),
    high: float = float("inf"),
) -> float:
    """Read a number within ``[low, high]``.

    Args:
        config: Where to read.
        key: Name of the setting.
        default: The value where the key is absent or null.
        low, high: Smallest and largest value accepted.

    Raises:
        ConfigError: If the value is not a number or lies outside the range.
    """
    value = read(config, key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= float(value) <= high:
        raise ConfigError(f"{key}: expected a number in [{low:g}, {high:g}], got {value!r}")
    return float(value)


def read_size(config: ConfigLike, key: str, default: int) -> int:
    """Read a positive whole number.

    Raises:
        ConfigError: If the value is anything else.
    """
    value = read(config, key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{key}: expected a whole number of at least 1, got {value!r}")
    return value


def read_sizes(
    config: ConfigLike, key: str, default: Sequence[int], at_least: int = 1
) -> tuple[int, ...]:
    """Read a list of layer widths.

    Args:
        config: Where to read.
        key: Name of the setting.
        default: The value where the key is absent or null.
        at_least: Smallest number of layers.

    Raises:
        ConfigError: If it is not a list of at least ``at_least`` positive whole numbers.
    """
    value = read(config, key)
    if value is None:
        return tuple(default)
    whole = isinstance(value, (list, tuple)) and all(
        isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in value
    )
    if not whole or len(value) < at_least:
        raise ConfigError(
            f"{key}: expected a list of at least {at_least} positive widths, got {value!r}"
        )
    return tuple(value)


def read_choice(config: ConfigLike, key: str, default: str, choices: Sequence[str]) -> str:
    """Read one of a few names.

    Raises:
        ConfigError: If the value is none of ``choices``; the nearest one is named.
    """
    value = read(config, key)
    if value is None:
        return default
    if value not in choices:
        raise ConfigError(
            f"{key}: expected one of {', '.join(choices)}, got {value!r}"
            f"{nearest(str(value), choices)}"
        )
    return str(value)
