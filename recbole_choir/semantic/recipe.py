"""How to make a semantic table: every choice in one checked object."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from recbole_choir.errors import ConfigError, nearest
from recbole_choir.paths import properties_dir

DEFAULT_RECIPE = "embedded"

#: Users per group aimed at when the number of clusters is chosen (PAPER_GAPS C13).
USERS_PER_GROUP = 20

#: Inputs that embed text and so need an encoder.
TEXT_INPUTS = ("text", "text_parts")


class Recipe(BaseModel):
    """Every choice that shapes a semantic table.

    Args:
        input: What users are grouped by: ``text`` (the written profile), ``text_parts`` (names of
            what they bought), ``behaviour`` (SVD of user x item), ``id_embedding`` (vectors of a
            trained model) or ``random`` (the control).
        profile_engine: Who writes the profiles; ``template`` needs no language model.
        encoder: ``embedded`` (MiniLM, installed with the package) or any sentence-transformers
            name or path.
        truncate_dim: Keep this many leading dimensions of an embedding, then normalise; all if
            null.
        n_levels: Depth M of the hierarchical group id; the paper's 3.
        n_clusters: Codewords per level, one number or one per level; null chooses
            ``(users / 20)^(1 / M)``, which gives groups of about 20 as in the paper.
        min_members: A group with fewer members backs off to its prefix.
        agg_level: ``backoff`` or a fixed level of the prefix whose group a user reads.
        n_snapshots: Snapshots at equal steps of the number of interactions, the last one after
            all of them.
        snapshot_times: Explicit times in epoch seconds instead.
        codebooks: ``once`` fits the codebooks on the first snapshot, so that ids keep their
            meaning; ``per_snapshot`` fits them anew (for studies).
        windows_days: Recent and medium window of a profile, in days.
        top_categories: Categories K_cat in a group's sequence.
        sequence_length: Items in a group's sequence.
        svd_dim: Dimensions of the ``behaviour`` input.
        text_parts_fields: Item fields whose names make the ``text_parts`` input.
        id_embedding_path: File with the vectors of the ``id_embedding`` input.
        seed: Seed of everything random.

    References:
        ChoirRec, sections 4.2 and 4.3; PAPER_GAPS C12, C13, C16 to C19.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: Literal["text", "text_parts", "behaviour", "id_embedding", "random"] = "text"
    profile_engine: str = "template"
    encoder: str = "embedded"
    truncate_dim: int | None = Field(default=None, ge=1)
    n_levels: int = Field(default=3, ge=1, le=16)
    n_clusters: int | list[int] | None = None
    min_members: int = Field(default=20, ge=1)
    agg_level: int | Literal["backoff"] = "backoff"
    n_snapshots: int = Field(default=4, ge=1)
    snapshot_times: list[float] | None = None
    codebooks: Literal["once", "per_snapshot"] = "once"
    windows_days: tuple[float, float] = (7, 30)
    top_categories: int = Field(default=10, ge=1)
    sequence_length: int = Field(default=50, ge=1)
    svd_dim: int = Field(default=48, ge=1)
    text_parts_fields: list[str] = Field(default=["category", "title"], min_length=1)
    id_embedding_path: str | None = None
    seed: int = Field(default=0, ge=0)

    @field_validator("n_clusters")
    @classmethod
    def _clusters_positive(cls, value: int | list[int] | None) -> int | list[int] | None:
        sizes = value if isinstance(value, list) else [value if value is not None else 1]
        if not sizes or min(sizes) < 1:
            raise ValueError("expected numbers of at least 1")
        return value

    @field_validator("windows_days")
    @classmethod
    def _windows_grow(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("expected two lengths in days, the shorter first")
        return value

    @field_validator("snapshot_times")
    @classmethod
    def _times_grow(cls, value: list[float] | None) -> list[float] | None:
        if value is None:
            return None
        if not value or not all(math.isfinite(t) for t in value):
            raise ValueError("expected at least one time, all of them finite")
        if any(b <= a for a, b in itertools.pairwise(value)):
            raise ValueError("expected times in increasing order")
        return value

    def model_post_init(self, context: Any, /) -> None:
        """Check what involves two fields."""
        if isinstance(self.n_clusters, list) and len(self.n_clusters) != self.n_levels:
            raise ConfigError(
                f"recipe.n_clusters: expected one number per level ({self.n_levels}), "
                f"got {len(self.n_clusters)}"
            )
        if isinstance(self.agg_level, int) and not 1 <= self.agg_level <= self.n_levels:
            raise ConfigError(
                f"recipe.agg_level: expected 'backoff' or 1..{self.n_levels}, got {self.agg_level}"
            )

    def clusters_for(self, n_users: int) -> list[int]:
        """Number of codewords at each level for that many users."""
        if isinstance(self.n_clusters, list):
            return list(self.n_clusters)
        if self.n_clusters is not None:
            return [self.n_clusters] * self.n_levels
        k = round((n_users / USERS_PER_GROUP) ** (1.0 / self.n_levels))
        return [max(2, k)] * self.n_levels


def load_recipe(
    source: Recipe | Mapping[str, Any] | str | Path = DEFAULT_RECIPE,
    overrides: Mapping[str, Any] | None = None,
) -> Recipe:
    """Read a recipe.

    Args:
        source: A recipe, its fields as a mapping, the path of a YAML file, or the name of one in
            ``properties/semantic``.
        overrides: Fields that replace those of the source.

    Raises:
        ConfigError: There is no such recipe, a key is unknown, or a value is wrong.
    """
    if isinstance(source, Recipe):
        fields, where = source.model_dump(), "recipe"
    elif isinstance(source, Mapping):
        fields, where = dict(source), "recipe"
    else:
        path = _find(str(source))
        fields, where = _read(path), f"recipe {path.name}"
    fields |= dict(overrides or {})
    unknown = [str(k) for k in fields if k not in Recipe.model_fields]
    if unknown:
        hint = nearest(unknown[0], Recipe.model_fields)
        known = ", ".join(Recipe.model_fields)
        raise ConfigError(f"{where}: unknown key '{unknown[0]}'{hint}; known: {known}")
    try:
        return Recipe(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        message = str(first["msg"]).removeprefix("Value error, ")
        if not first["loc"]:
            raise ConfigError(message) from None
        key = str(first["loc"][0])
        raise ConfigError(f"{where}.{key}: {message}, got {first['input']!r}") from None


def _find(source: str) -> Path:
    folder = properties_dir() / "semantic"
    for candidate in (Path(source), folder / f"{source}.yaml"):
        if candidate.is_file():
            return candidate
    names = sorted(p.stem for p in folder.glob("*.yaml"))
    raise ConfigError(
        f"semantic_recipe: expected a YAML file or one of {', '.join(names)}, "
        f"got '{source}'{nearest(source, names)}"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        line = " ".join(str(error).split())
        raise ConfigError(f"recipe {path.name}: not valid YAML: {line}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path.name}: cannot be read: {error}") from None
    if fields is None:
        return {}
    if not isinstance(fields, dict):
        raise ConfigError(f"recipe {path.name}: expected key: value lines, got {fields!r}")
    return fields
