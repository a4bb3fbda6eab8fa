"""What is searched for a model: RecBole's keys by YAML files, this package's by their classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_choir.errors import ConfigError, nearest
from recbole_choir.paths import properties_dir
from recbole_choir.settings import catalogue
from recbole_choir.settings.base import Settings
from recbole_choir.settings.layers import read_yaml
from recbole_choir.settings.run import RunSettings

FIELDS = ("choices", "low", "high", "log", "step", "default", "zero")


@dataclass(frozen=True)
class Dimension:
    """One hyper-parameter: a list of choices, or a range.

    Attributes:
        choices: The values; empty for a range.
        low, high: Bounds, both reachable; whole numbers make a whole-numbered range.
        log: Equal chances for equal ratios.
        step: Distance of the values of a range; null: any.
        default: The value of the first trial where the configuration has null.
        zero: Chance that a log range gives exactly 0, which it cannot hold otherwise; 0: never.
            The sampler sees a range that goes on below ``low`` by this share, all of it meaning 0,
            so that 0 lies next to the smallest values.
    """

    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    default: Any = None
    # not in the text of a space, by which earlier searches are found again
    zero: float = field(default=0.0, repr=False)

    @property
    def lowest(self) -> float:
        """Lower end for the sampler: ``low``, or so far below it that ``zero`` is its share.

        With ``a = ln(high / low)`` the part below is ``a z / (1 - z)`` long, which is the share z
        of ``a + a z / (1 - z) = a / (1 - z)``.
        """
        if not self.zero:
            return self.low
        return float(self.low * (self.low / self.high) ** (self.zero / (1 - self.zero)))

    @property
    def whole(self) -> bool:
        """Whether the range is of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def contains(self, value: Any) -> bool:
        """Whether a value can be a point of this dimension."""
        if self.choices:
            return any(value == c and type(value) is type(c) for c in self.choices)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        if self.zero and value == 0:
            return True
        if not self.low <= value <= self.high or (self.whole and value != int(value)):
            return False
        if self.step is None:
            return True
        steps = (value - self.low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-6)

    def rounded(self, value: Any) -> Any:
        """A sampled value as it is used and written: ranges to six significant digits.

        A step of 0.1 gives 0.30000000000000004 otherwise, and a rate thirteen digits.
        """
        if self.zero and value < self.low:
            return 0.0
        return float(f"{value:.6g}") if isinstance(value, float) and not self.choices else value

    def stored(self, value: float) -> float:
        """A value of a range as the sampler stores it: 0 as the middle of what means 0."""
        if self.zero and value == 0:
            return math.sqrt(self.lowest * self.low)
        return float(value)

    def text(self) -> str:
        """The dimension in a line for people."""
        if self.choices:
            return ", ".join(map(str, self.choices))
        kind = " log" if self.log else f" step {self.step}" if self.step else ""
        return f"{'0 or ' if self.zero else ''}{self.low} to {self.high}{kind}"


Space = dict[str, Dimension]


def search_dir() -> Path:
    """Folder with the search spaces that come with the package."""
    return properties_dir() / "search"


def load_space(model: str, folder: Path, config: Mapping[str, Any]) -> Space:
    """The search space of a model.

    Args:
        model: Its name.
        folder: With ``default.yaml`` and perhaps ``<Model>.yaml``. To the package's own folder the
            ranges in the classes of settings (:func:`recbole_choir.settings.base.setting`) belong;
            any other says all that is searched.
        config: The model's configuration: keys that it lacks are left out.

    Returns:
        Key -> dimension: those of ``default.yaml``, of the run's and the model's settings, of
        ``<Model>.yaml``.

    Raises:
        ConfigError: A file is missing or malformed; the line names file, key and what is wrong.
    """
    given = _read(folder / "default.yaml")
    ours = (RunSettings, catalogue.settings_class(model) or Settings)
    for cls in ours if folder == search_dir() else ():
        for key, content in cls.searched().items():
            given.setdefault(key, _dimension(content, f"{cls.__name__}.{key}"))
    space = {
        key: dimension
        for key, dimension in given.items()
        if dimension is not None and key.split(".")[0] in config
    }
    own = folder / f"{model}.yaml"
    if not own.is_file():
        return space
    for key, dimension in _read(own).items():
        if dimension is None:
            space.pop(key, None)
        else:
            space[key] = dimension
    return space


def defaults(space: Space, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration's own values, as far as they are points of the space."""
    out = {}
    for key, dimension in space.items():
        value: Any = config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        value = dimension.default if value is None else value
        if dimension.contains(value):
            out[key] = value
    return out


def _read(path: Path) -> dict[str, Dimension | None]:
    return {key: _dimension(value, f"{path}: {key}") for key, value in read_yaml(path).items()}


def _dimension(content: Any, where: str) -> Dimension | None:
    if content is None:
        return None
    expected = "expected {choices: [..]} or {low: a, high: b}"
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where}: {expected}, got {content!r}")
    for name in content:
        if name not in FIELDS:
            raise ConfigError(f"{where}: unknown field '{name}'{nearest(str(name), FIELDS)}")
    if ("choices" in content) == ("low" in content or "high" in content):
        raise ConfigError(f"{where}: {expected}, got {dict(content)}")
    if "choices" in content:
        choices = content["choices"]
        scalar = (bool, int, float, str, type(None))
        if not isinstance(choices, list) or not choices:
            raise ConfigError(f"{where}.choices: expected a list with an entry, got {choices!r}")
        if not all(isinstance(choice, scalar) for choice in choices):
            raise ConfigError(f"{where}.choices: expected numbers or texts, got {choices!r}")
        if "zero" in content:
            raise ConfigError(
                f"{where}.zero: expected a log range, got choices; write 0 among them"
            )
        return Dimension(choices=tuple(choices), default=content.get("default"))
    bounds = [content.get("low"), content.get("high")]
    for value in bounds:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f"{where}: expected numbers for low and high, got {bounds}")
    low, high = content["low"], content["high"]
    log, step = bool(content.get("log", False)), content.get("step")
    if not low < high or (log and low <= 0):
        raise ConfigError(f"{where}: expected {'0 < ' * log}low < high, got {low}, {high}")
    if step is not None and (log or not isinstance(step, (int, float)) or step <= 0):
        raise ConfigError(f"{where}.step: expected a number above 0, and no log, got {step!r}")
    zero = content.get("zero", 0.0)
    number = isinstance(zero, (int, float)) and not isinstance(zero, bool)
    if not number or not 0 <= zero < 1 or (zero and not log):
        raise ConfigError(f"{where}.zero: expected a chance below 1 of a log range, got {zero!r}")
    if zero:
        low, high = float(low), float(high)  # what goes on below is no whole number
    return Dimension(
        low=low,
        high=high,
        log=log,
        step=step,
        default=content.get("default"),
        zero=float(zero),
    )
