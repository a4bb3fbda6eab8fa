"""What a model's comparison adds to the model itself: ``properties/compare/<Model>.yaml``.

One file a model holds its controls, the rows of its paper's Table 2, the values of its
hyper-parameter figures and its variants beyond the paper, each as the settings by which the row
differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_choir.errors import ConfigError, nearest
from recbole_choir.paths import properties_dir
from recbole_choir.settings.layers import read_yaml

KINDS = ("controls", "ablation", "sweep", "variants")
Settings = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """A variant of a model beyond its paper, with the controls of its own.

    Attributes:
        settings: By which it differs from the model.
        controls: Name -> settings by which the control differs from the variant.
    """

    settings: Settings
    controls: dict[str, Settings] = field(default_factory=dict)


@dataclass(frozen=True)
class Rows:
    """Rows beside a model.

    Attributes:
        controls: Name -> settings; rows of every table of the model.
        ablation: Name -> settings: the paper's Table 2, in its order.
        sweep: Figure -> value -> settings.
        variants: Name -> variant.
    """

    controls: dict[str, Settings] = field(default_factory=dict)
    ablation: dict[str, Settings] = field(default_factory=dict)
    sweep: dict[str, dict[str, Settings]] = field(default_factory=dict)
    variants: dict[str, Variant] = field(default_factory=dict)


def rows_dir() -> Path:
    """Folder with the rows that come with the package."""
    return properties_dir() / "compare"


def models_with(kind: str, folder: Path) -> list[str]:
    """The models whose file in the folder has rows of a kind."""
    stems = sorted(path.stem for path in folder.glob("*.yaml"))
    return [stem for stem in stems if getattr(load_rows(stem, folder), kind)]


def load_rows(model: str, folder: Path) -> Rows:
    """The rows of a model; none where the folder has no file of its name.

    Raises:
        ConfigError: The file is malformed; the line names file and key.
    """
    path = folder / f"{model}.yaml"
    if not path.is_file():
        return Rows()
    content = read_yaml(path)
    for kind in content:
        if kind not in KINDS:
            raise ConfigError(f"{path}: unknown key '{kind}'{nearest(str(kind), KINDS)}")
    sweep = _mapping(content.get("sweep"), f"{path}: sweep")
    variants = _rows(content.get("variants"), f"{path}: variants")
    return Rows(
        controls=_rows(content.get("controls"), f"{path}: controls"),
        ablation=_rows(content.get("ablation"), f"{path}: ablation"),
        sweep={name: _rows(values, f"{path}: sweep.{name}") for name, values in sweep.items()},
        variants={name: _variant(v, f"{path}: variants.{name}") for name, v in variants.items()},
    )


def _variant(content: Settings, where: str) -> Variant:
    for key in content:
        if key not in ("settings", "controls"):
            raise ConfigError(f"{where}: unknown key '{key}', expected settings and controls")
    settings = _rows({"settings": content.get("settings")}, where)["settings"]
    return Variant(settings, _rows(content.get("controls"), f"{where}.controls"))


def _mapping(content: Any, where: str) -> dict[str, Any]:
    if content is not None and not isinstance(content, Mapping):
        raise ConfigError(f"{where}: expected a mapping, got {content!r}")
    return {str(key): value for key, value in (content or {}).items()}


def _rows(content: Any, where: str) -> dict[str, Settings]:
    rows = _mapping(content, where)
    for name, settings in rows.items():
        if not isinstance(settings, Mapping) or not settings:
            raise ConfigError(f"{where}.{name}: expected settings {{key: value}}, got {settings!r}")
    return {name: dict(settings) for name, settings in rows.items()}
