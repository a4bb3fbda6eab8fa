"""ChoirRec and AKT-Rec as RecBole models.

Once the package is imported, RecBole is remedied for today's libraries and the models are
registered with it: at once where RecBole is imported already, otherwise at the moment it is. So
``--help``, a list or a refused setting costs no import of torch. Where RecBole is missing the parts
that do not need it import all the same: ``semantic``, ``data``, ``evaluator``,
``dataset_adapters``.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import wrapt

__version__ = "0.1.0"

# A wheel carries dataset_adapters inside the package; in a checkout it lies next to the package,
# and `recbole_choir.dataset_adapters` must mean the same in both.
_root = Path(__file__).resolve().parent.parent
if (
    not (Path(__file__).resolve().parent / "dataset_adapters").is_dir()
    and (_root / "dataset_adapters").is_dir()
    and (_root / "pyproject.toml").is_file()
    and str(_root) not in __path__
):
    __path__.append(str(_root))


@wrapt.when_imported("recbole")
def _register(recbole: ModuleType) -> None:
    """Remedy RecBole and register the models with it, as soon as anybody imports it."""
    from recbole_choir.integration import compat, registry

    compat.apply()
    registry.register_all()
