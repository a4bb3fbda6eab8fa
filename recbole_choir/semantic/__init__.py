"""The offline half: from text and behaviour to a semantic table of user groups.

Names are loaded on first use, so that importing one does not load torch and an encoder.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recbole_choir.semantic.encoders.encoder import Encoder
    from recbole_choir.semantic.frames.canonical import prepare_frames
    from recbole_choir.semantic.frames.snapshots import snapshot_times
    from recbole_choir.semantic.quantizers.rqkmeans import RQKMeans
    from recbole_choir.semantic.quantizers.rqvae import RQVAE
    from recbole_choir.semantic.table.assigner import assign, assign_items
    from recbole_choir.semantic.table.builder import build, build_prepared, prepared_key, table_key
    from recbole_choir.settings.recipe import Recipe, load_recipe

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
    "RQVAE": "recbole_choir.semantic.quantizers.rqvae",
    "Encoder": "recbole_choir.semantic.encoders.encoder",
    "RQKMeans": "recbole_choir.semantic.quantizers.rqkmeans",
    "Recipe": "recbole_choir.settings.recipe",
    "assign": "recbole_choir.semantic.table.assigner",
    "assign_items": "recbole_choir.semantic.table.assigner",
    "build": "recbole_choir.semantic.table.builder",
    "build_prepared": "recbole_choir.semantic.table.builder",
    "load_recipe": "recbole_choir.settings.recipe",
    "prepare_frames": "recbole_choir.semantic.frames.canonical",
    "prepared_key": "recbole_choir.semantic.table.builder",
    "snapshot_times": "recbole_choir.semantic.frames.snapshots",
    "table_key": "recbole_choir.semantic.table.builder",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    # No module bears the name of a function: importing it would hide the function.
    return getattr(importlib.import_module(_HOME[name]), name)
