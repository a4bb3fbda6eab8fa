"""The figures of docs/gaps.md that need no trained model, on ml-100k.

    python benchmarks/gap_findings.py

Builds the tables of ChoirRec's and AKTRec's default recipes, or finds them built, and writes
benchmarks/records/gap_findings.json. Takes about four minutes of one core when nothing is built.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_choir.data.members import belongs_to
from recbole_choir.integration.config import ChoirConfig
from recbole_choir.integration.dataset import create_dataset
from recbole_choir.quick_start import train_id_vectors
from recbole_choir.record import versions
from recbole_choir.table_source import ensure_semantic_table

RECORD = Path(__file__).parent / "records" / "gap_findings.json"
DATASET = "ml-100k"
#: The sentence of the template that tells the three windows.
WINDOWS = re.compile(
    r"lately (?P<recent>[^;]*); before that (?P<medium>[^;]*); long ago (?P<long>[^.]*)\."
)


def built(model: str, **settings: Any) -> tuple[Any, Path]:
    """The dataset of a model with its table, and the table's folder."""
    config = ChoirConfig(model, DATASET, config_dict={"show_progress": False, **settings})
    data = create_dataset(config)
    data.build_splits()
    table = ensure_semantic_table(config, data, train_id_vectors)
    assert table is not None
    data.attach_semantic_table(table)
    return data, Path(table)


def back_off(read: Any, codes: Any, level: NDArray[np.int64] | None, n: int) -> dict[str, Any]:
    """How many groups are read, and who belongs to those that others back off to.

    Args:
        read: ``[S + 1, ids]`` the group that each id reads, codes: ``[S + 1, ids, M]``.
        level: How many codes each of the ``n`` groups stands for.
    """
    pairs = list(zip(read.numpy()[1:], codes.numpy()[1:]))
    readers = sum(np.bincount(r, minlength=n) for r, _ in pairs)
    members = sum(np.bincount(belongs_to(r, c, level).ravel(), minlength=n) for r, c in pairs)
    readers[0] = 0
    prefix = (readers > 0) & (members > readers)
    return {
        "read": int((readers > 0).sum()),
        "prefixes": int(prefix.sum()),
        "readers": [int(readers[prefix].min()), int(readers[prefix].max())],
        "members": [int(members[prefix].min()), int(members[prefix].max())],
    }


def windows(folder: Path) -> dict[str, Any]:
    """How many profiles tell three windows, and how many have something in the older two."""
    texts = [json.loads(line)["text"] for line in (folder / "profiles.jsonl").open()]
    found = [match for match in map(WINDOWS.search, texts) if match]
    older = [m for m in found if m["medium"] != "nothing" or m["long"] != "nothing"]
    return {"texts": len(texts), "three_windows": len(found), "older": len(older) / len(found)}


def main() -> None:
    """Build, count, write."""
    logging.getLogger("recbole_choir").setLevel(logging.WARNING)
    choir, choir_folder = built("ChoirRec")
    akt, akt_folder = built("AKTRec")
    _, ids_folder = built("ChoirRec", use_llm_emb=False)
    users, akt_users = choir.model_inputs.groups, akt.model_inputs.groups
    items = akt.model_inputs.items
    quality = json.loads((choir_folder / "quality.json").read_text())
    manifest = json.loads((ids_folder / "quality.json").read_text())
    record = {
        "command": "python benchmarks/gap_findings.py",
        "dataset": DATASET,
        "back_off": {
            "ChoirRec, users": back_off(
                users.user_group, users.user_codes, users.group_level, users.n_groups
            ),
            "AKTRec, users": back_off(
                akt_users.user_group,
                akt_users.user_codes,
                akt_users.group_level,
                akt_users.n_groups,
            ),
            "AKTRec, items": back_off(
                items.item_cluster, items.item_codes, items.cluster_level, items.n_clusters
            ),
        },
        "windows": windows(choir_folder),
        "trained_vectors": manifest["snapshots"][0],
        "hit_rates": json.loads((akt_folder / "quality.json").read_text())["inputs"]["items"],
        "lift": quality["lift_gauc"],
        "cells": quality["attribute_cells"],
        "versions": versions(),
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written: {RECORD}")


if __name__ == "__main__":
    main()
