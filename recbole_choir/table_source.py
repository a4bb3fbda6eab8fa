"""Where the semantic table of a run comes from: a folder, an earlier run, or the training rows."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recbole_choir.errors import ConfigError
from recbole_choir.files import probe_folder


def ensure_semantic_table(
    config: Any, dataset: Any, id_vectors: Callable[[Any, float], Path]
) -> Path | None:
    """Give the run its semantic table: the one named, a cached one, or a new one.

    The table is made from the training rows alone. Its folder is named by the content of its
    inputs and its recipe, so a second run with the same split and recipe reuses it.

    Args:
        config: The run's configuration.
        dataset: The dataset, split.
        id_vectors: Trains a Base on the rows before a time and returns the file of its user
            vectors; called for ``use_llm_emb: False``, the paper's "w/o LLM Emb."

    Returns:
        The table's folder, or None where nothing in the run reads a table.

    References:
        ChoirRec Table 2, "w/o LLM Emb."; docs/gaps.md C28.
    """
    choice = config["semantic_table"]
    if str(choice).lower() == "none" or not dataset.needs_semantic_table():
        return None
    if str(choice) != "auto":
        return Path(str(choice))
    probe_folder("semantic_dir", config["semantic_dir"])  # a table may take hours
    semantic = importlib.import_module("recbole_choir.semantic")
    overrides = dict(config["semantic"] or {})
    frames = dataset.semantic_frames()
    if config["use_llm_emb"] is False:
        if overrides.get("input", "id_embedding") != "id_embedding":
            raise ConfigError(
                "use_llm_emb: False groups users by id embeddings; expected no semantic.input, "
                f"got '{overrides['input']}'"
            )
        recipe = semantic.load_recipe(config["semantic_recipe"], overrides)
        first = semantic.snapshot_times(frames[0]["timestamp"].to_numpy(), recipe)[0]
        path = id_vectors(config, float(first))
        overrides |= {"input": "id_embedding", "id_embedding_path": str(path)}
    recipe = semantic.load_recipe(config["semantic_recipe"], overrides)
    if recipe.soft is None and dataset.needs_soft_groups():
        raise ConfigError(
            "semantic_recipe: expected a recipe with soft groups (soft, soft_factors, "
            f"soft_prototypes), got '{config['semantic_recipe']}': the model reads lifts or own "
            "scores of them"
        )
    prepared = semantic.prepare_frames(*frames)
    key = semantic.prepared_key(prepared, recipe)
    folder = Path(config["semantic_dir"]) / f"{config['dataset']}-{recipe.input}-{key}"
    progress = bool(config["show_progress"])
    return semantic.build_prepared(prepared, recipe, folder, show_progress=progress)
