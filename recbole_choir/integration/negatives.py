"""Whether a dataset's negatives were observed or sampled."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

logger = logging.getLogger("recbole_choir")

MANIFEST = "manifest.json"  # of dataset_adapters


def has_sampled_negatives(given: Any, folder: str | Path) -> bool:
    """Tell whether rows with label 0 were drawn rather than shown to the user.

    Args:
        given: The key ``sampled_negatives``: True or False, or None to ask the manifest that an
            adapter left beside the atomic files.
        folder: The dataset's own folder.

    Returns:
        What was given, else what the manifest says; False without one.
    """
    if given is not None:
        return bool(given)
    path = Path(folder) / MANIFEST
    if not path.is_file():
        return False
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        logger.warning("%s: not readable (%s), its negatives are taken as observed", path, error)
        return False
    return isinstance(manifest, dict) and bool(manifest.get("negatives"))
