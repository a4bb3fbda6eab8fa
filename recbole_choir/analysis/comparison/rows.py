"""What a model's comparison adds to the model itself: ``properties/compare/<Model>.yaml``.

One file a model holds its controls, the rows of its paper's Table 2 and the values of its
hyper-parameter figures, each as the settings by which the row differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_choir.errors import ConfigError, nearest
from recbole_choir.integration.config_checks import read_yaml
from recbole_choir.paths import properties_dir

KINDS = ("controls", "ablation", "sweep")
Settings = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """Rows beside a model.

    Attributes:
        controls: Name -> settings; rows of every table of the model.
        ablation: Name -> settings: the paper's Table 2, in its order.
        sweep: Figure -> value -> settings.
    """

    controls: dict[str, Settings] = field(default_factory=dict)
    ablation: dict[str, Settings] = field(default_factory=dict)
    sweep: dict[str, dict[str, Settings]] = field(default_factory=dict)


def rows_dir() -> Path:
    """Folder with the rows that come with the package."""
    return properties_dir() / "compare"


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
    return Rows(
        controls=_rows(content.get("controls"), f"{path}: controls"),
        ablation=_rows(content.get("ablation"), f"{path}: ablation"),
        sweep={name: _rows(values, f"{path}: sweep.{name}") for name, values in sweep.items()},
    )


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
