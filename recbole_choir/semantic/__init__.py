"""The offline half: from text and behaviour to a semantic table of user groups.

Names are loaded on first use, so that importing one does not load torch and an encoder.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recbole_choir.semantic.assigner import assign, assign_items
    from recbole_choir.semantic.builder import build, build_prepared, prepared_key, table_key
    from recbole_choir.semantic.canonical import prepare_frames
    from recbole_choir.semantic.encode import Encoder
    from recbole_choir.semantic.quantize import RQKMeans
    from recbole_choir.semantic.recipe import Recipe, load_recipe
    from recbole_choir.semantic.rqvae import RQVAE
    from recbole_choir.semantic.snapshots import snapshot_times

__all__ = [
    "RQVAE",
    "Encoder",
    "RQKMeans",
    "Recipe",
    "assign",
    "assign_items",
    "build",
    "build_prepared",
    "load_recipe",
    "prepare_frames",
    "prepared_key",
    "snapshot_times",
    "table_key",
]

_HOME = {
    "RQVAE": "rqvae",
    "Encoder": "encode",
    "RQKMeans": "quantize",
    "Recipe": "recipe",
    "assign": "assigner",
    "assign_items": "assigner",
    "build": "builder",
    "build_prepared": "builder",
    "load_recipe": "recipe",
    "prepare_frames": "canonical",
    "prepared_key": "builder",
    "snapshot_times": "snapshots",
    "table_key": "builder",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    # No module bears the name of a function: importing it would hide the function.
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
