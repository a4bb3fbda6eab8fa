"""``recbole-choir groups``: groupings of one dataset, and what models gain by them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from recbole_choir.arguments import CommandParser
from recbole_choir.datasets import ensure_atomic_files
from recbole_choir.errors import ConfigError
from recbole_choir.experiments.tables import comparison, load_records
from recbole_choir.integration import ChoirConfig, create_dataset, init_logging, parse_cli
from recbole_choir.integration.warm_start import train_id_vectors
from recbole_choir.semantic import load_recipe, snapshot_times
from recbole_choir.semantic.frames.canonical import prepare_frames
from recbole_choir.semantic.profiles.llm_profiles import store_path
from recbole_choir.semantic.quality.compare import SEEDS, TABLE, compare, parse_candidates
from recbole_choir.settings.profiles import LLM_ENGINES
from recbole_choir.settings.recipe import Recipe

#: The groupings of the paper's Table 2 and of our own, under the names that the cells of
#: benchmarks/studies/profiles-ml-100k.yaml have.
CANDIDATES: Final = (
    "template + MiniLM=embedded",
    "text parts=text_parts",
    "SmolLM2 + MiniLM=local_llm",
    "aligned=aligned",
    "behaviour=behaviour",
    "random=random",
)

#: Vectors of a Base trained on what lies before the first snapshot: "w/o LLM Emb.".
USER_IDS: Final = "user ids of Base"

#: Segment of a study's records -> heading.
_SEGMENTS: Final = {"all": "test GAUC", "low": "low activity"}


def compare_groups(
    config: ChoirConfig,
    candidates: Mapping[str, Recipe],
    out: Path,
    *,
    user_ids: bool = True,
    study: Path | None = None,
    seeds: Sequence[int] = SEEDS,
) -> list[dict[str, Any]]:
    """Compare groupings of a dataset's training rows.

    Args:
        config: Of any model of ours; dataset, split and data settings are read.
        candidates: Name -> recipe.
        out: Gets tables, records and ``comparison.md``.
        user_ids: Compare the user vectors of a trained Base as well.
        study: Folder of a study's records: test GAUC of its cells is joined by their names.
        seeds: Of the grouping.

    Returns:
        A record a candidate.
    """
    ensure_atomic_files(config)
    data = create_dataset(config)
    data.build_splits()
    frames = data.semantic_frames()
    chosen = dict(candidates)
    if user_ids:
        recipe = next(iter(chosen.values()), load_recipe())
        first = snapshot_times(frames[0]["timestamp"].to_numpy(), recipe)[0]
        path = train_id_vectors(config, float(first))
        chosen = {
            USER_IDS: load_recipe(
                recipe,
                {
                    "input": "id_embedding",
                    "id_embedding_path": str(path),
                    "profile_engine": "template",
                },
            ),
            **chosen,
        }
    tables = Path(config["semantic_dir"])
    return compare(
        prepare_frames(*frames),
        {name: _with_store(recipe, tables) for name, recipe in chosen.items()},
        out,
        seeds=seeds,
        cache_dir=tables / ".embeddings",
        downstream=downstream(study, str(config["dataset"])) if study else None,
        show_progress=bool(config["show_progress"]),
    )


def _with_store(recipe: Recipe, tables: Path) -> Recipe:
    """The recipe with the profiles that runs have paid for, and will read."""
    if recipe.profile_engine not in LLM_ENGINES or recipe.profile.store is not None:
        return recipe
    store = store_path(recipe.profile, tables / "table")
    return recipe.model_copy(
        update={"profile": recipe.profile.model_copy(update={"store": str(store)})}
    )


def downstream(study: Path, dataset: str) -> dict[str, dict[str, str]]:
    """Test GAUC of a study's cells over its seeds, by the name of the cell."""
    records = load_records(study)
    if len(records) == 0 or not (records["dataset"] == dataset).any():
        raise ConfigError(f"--study {study}: expected records of dataset '{dataset}', got none")
    table = comparison(records, dataset, "gauc", list(_SEGMENTS))
    return {
        str(cell): {
            head: str(row[segment])
            for segment, head in _SEGMENTS.items()
            if segment in row and not pd.isna(row[segment])
        }
        for cell, row in table.iterrows()
    }


def main(argv: Sequence[str]) -> int:
    """``recbole-choir groups --dataset=NAME --out FOLDER [--study FOLDER] [--key=value ...]``."""
    parser = CommandParser(
        prog="recbole-choir groups",
        description=__doc__,
        epilog="Any other --key=value is a key of a run's configuration.",
        allow_abbrev=False,
    )
    parser.add_argument("--dataset", default="ml-100k", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="tables, records, comparison.md")
    parser.add_argument(
        "--recipes",
        nargs="+",
        metavar="[NAME=]RECIPE",
        default=list(CANDIDATES),
        help=f"names in properties/semantic or YAML files (default: {', '.join(CANDIDATES)})",
    )
    parser.add_argument(
        "--no-user-ids", action="store_true", help="leave out the vectors of a trained Base"
    )
    parser.add_argument("--study", type=Path, help="records of a study, joined by cell name")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    options, rest = parser.parse_known_args(argv)
    candidates = parse_candidates(options.recipes)
    config = ChoirConfig(model="ChoirRec", dataset=options.dataset, cli=parse_cli(rest))
    init_logging(config)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    compare_groups(
        config,
        candidates,
        options.out,
        user_ids=not options.no_user_ids,
        study=options.study,
        seeds=options.seeds,
    )
    print((options.out / TABLE).read_text(encoding="utf-8"), end="")
    return 0
