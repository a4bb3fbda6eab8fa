"""ChoirRec and AKT-Rec as RecBole models.

Importing the package remedies RecBole for today's libraries and registers the models with it
(idempotent, about a second beyond importing torch). Where RecBole is missing the parts that do not
need it still import: ``semantic``, ``data``, ``evaluator``, ``dataset_adapters``, ``analysis``.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

__version__ = "0.1.0"

# A wheel carries dataset_adapters inside the package; in a checkout it lies beside the package,
# and `recbole_choir.dataset_adapters` must mean the same in both.
_root = Path(__file__).resolve().parent.parent
if (
    not (Path(__file__).resolve().parent / "dataset_adapters").is_dir()
    and (_root / "dataset_adapters").is_dir()
    and (_root / "pyproject.toml").is_file()
    and str(_root) not in __path__
):
    __path__.append(str(_root))


def _register() -> None:
    """Remedy RecBole and register the models, where RecBole is installed."""
    if importlib.util.find_spec("recbole") is None:
        return
    from recbole_choir.integration import compat, registry

    compat.apply()
    registry.register_all()


_register()
