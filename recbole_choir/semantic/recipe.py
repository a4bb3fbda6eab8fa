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
from recbole_choir.semantic.profiles.settings import ProfileSettings

DEFAULT_RECIPE = "embedded"

#: Users per group aimed at when the number of clusters is chosen (PAPER_GAPS C13).
USERS_PER_GROUP = 20

#: Inputs that embed text and so need an encoder.
TEXT_INPUTS = ("text", "text_parts", "aligned")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AlignmentRecipe(_Part):
    """How content vectors are aligned with co-occurrence (AKT-Rec 3.1.1, Eq. 1; PAPER_GAPS A12).

    Args:
        method: ``head`` trains a projection on frozen vectors (the default on a CPU), ``lora`` and
            ``full`` train the encoder itself.
        dim: Width of the aligned vector.
        window: Two items co-occur where one user chose them at most this many positives apart.
        min_count: Pairs that co-occur less often are dropped.
        temperature: tau of the InfoNCE loss.
        epochs, batch_size, learning_rate: Of the training.
        max_pairs: Most frequent pairs kept; null keeps all.
    """

    method: Literal["head", "lora", "full"] = "head"
    dim: int = Field(default=64, ge=2)
    window: int = Field(default=5, ge=1)
    min_count: int = Field(default=3, ge=1)
    temperature: float = Field(default=0.07, gt=0)
    epochs: int = Field(default=5, ge=1)
    batch_size: int = Field(default=256, ge=2)
    learning_rate: float | None = Field(default=None, gt=0)
    max_pairs: int | None = Field(default=200_000, ge=1)


class InterestRecipe(_Part):
    """How users' interest vectors are learned (AKT-Rec 3.1.1, Eq. 2; PAPER_GAPS A11).

    Args:
        engine: ``transformer``: a small transformer over item vectors; ``llm``: a causal language
            model with an interest token.
        model: For ``llm``: a folder or hub name; ``embedded`` is the packaged small model.
        length: Longest history.
        layers, heads: Of the small transformer.
        lora_rank: For ``llm``: rank of the adapters; 0 trains all weights.
        epochs, batch_size, learning_rate: Of the training.
        gradient_accumulation: Steps whose gradients are added up.
        max_samples: Training samples drawn with the recipe's seed; null takes all.
    """

    engine: Literal["transformer", "llm"] = "transformer"
    model: str = "embedded"
    length: int = Field(default=50, ge=1)
    layers: int = Field(default=1, ge=1)
    heads: int = Field(default=2, ge=1)
    lora_rank: int = Field(default=8, ge=0)
    epochs: int = Field(default=2, ge=1)
    batch_size: int = Field(default=256, ge=1)
    learning_rate: float | None = Field(default=None, gt=0)
    gradient_accumulation: int = Field(default=1, ge=1)
    max_samples: int | None = Field(default=200_000, ge=1)


class RQVAERecipe(_Part):
    """Sizes of the RQ-VAE (AKT-Rec 3.1.2, Eq. 3; PAPER_GAPS A10).

    Args:
        latent: Width of the quantised latent.
        hidden: Hidden widths of the encoder; the decoder mirrors them.
        beta: Weight of the commitment loss.
        epochs, batch_size, learning_rate: Of the training.
        patience: Epochs without a better validation loss after which training stops.
    """

    latent: int = Field(default=32, ge=1)
    hidden: list[int] = Field(default=[128, 64], min_length=1)
    beta: float = Field(default=0.25, ge=0)
    epochs: int = Field(default=100, ge=1)
    batch_size: int = Field(default=1024, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0)
    patience: int = Field(default=10, ge=1)


class ItemRecipe(_Part):
    """Semantic ids and content vectors of items (AKT-Rec 3.1; PAPER_GAPS A9, A12, A18).

    Args:
        input: ``aligned``: text aligned with co-occurrence (Eq. 1); ``text``: text alone;
            ``behaviour``: SVD of co-occurrence alone; ``blend``: that SVD, with a ridge map from
            text where an item has few events (not in the paper); ``random``: the control.
        fields: Item fields of the prompt; null takes title, category and all other text fields.
        statistics: Also tell the encoder the item's rates, as discrete levels.
        image_field: Item field with the path of a picture, for a multimodal encoder.
        quantizer: ``rqvae`` as in the paper, or ``rqkmeans``.
        n_levels: Three, as in the paper.
        n_clusters: Codewords per level; null chooses ``(items / ids_per_cluster)^(1 / n_levels)``.
        ids_per_cluster: 18, the paper's 300 M items over 256^3.
        min_members: A cluster with fewer members backs off to its prefix.
        alignment: See :class:`AlignmentRecipe`.
    """

    input: Literal["aligned", "text", "behaviour", "blend", "random"] = "aligned"
    fields: list[str] | None = None
    statistics: bool = True
    image_field: str | None = None
    quantizer: Literal["rqvae", "rqkmeans"] = "rqvae"
    n_levels: int = Field(default=3, ge=1, le=16)
    n_clusters: int | list[int] | None = None
    ids_per_cluster: float = Field(default=18, gt=0)
    min_members: int = Field(default=5, ge=1)
    alignment: AlignmentRecipe = AlignmentRecipe()


class Recipe(BaseModel):
    """Every choice that shapes a semantic table.

    Args:
        input: What users are grouped by: ``text`` (the written profile), ``text_parts`` (names of
            what they bought), ``aligned`` (the written profile aligned with behaviour),
            ``behaviour`` (SVD of user x item), ``interest`` (a sequence model over item vectors,
            AKT-Rec Eq. 2; needs ``items``), ``id_embedding`` (vectors of a trained model) or
            ``random`` (the control).
        profile_engine: Who writes the profiles; ``template`` needs no language model.
        profile: How a language model writes them; see
            :class:`~recbole_choir.semantic.profiles.settings.ProfileSettings`.
        encoder: ``embedded`` (MiniLM, installed with the package) or any sentence-transformers
            name or path.
        truncate_dim: Keep this many leading dimensions of an embedding, then normalise; all if
            null.
        n_levels: Depth M of the hierarchical group id; the paper's 3.
        quantizer: ``rqkmeans`` (ChoirRec) or ``rqvae`` (AKT-Rec).
        n_clusters: Codewords per level, one number or one per level; null chooses
            ``(users / users_per_group)^(1 / M)``.
        users_per_group: 20, as in ChoirRec; AKT-Rec has about 17.
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
        items: Also make semantic ids of items; null makes none (ChoirRec needs none).
        alignment: Of the ``aligned`` user input.
        interest: Of the ``interest`` user input.
        rqvae: Sizes of the RQ-VAE, for users and items.
        seed: Seed of everything random.

    References:
        ChoirRec, sections 4.2 and 4.3; PAPER_GAPS C12, C13, C16 to C19.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: Literal[
        "text", "text_parts", "aligned", "behaviour", "interest", "id_embedding", "random"
    ] = "text"
    profile_engine: str = "template"
    profile: ProfileSettings = ProfileSettings()
    encoder: str = "embedded"
    truncate_dim: int | None = Field(default=None, ge=1)
    quantizer: Literal["rqkmeans", "rqvae"] = "rqkmeans"
    n_levels: int = Field(default=3, ge=1, le=16)
    n_clusters: int | list[int] | None = None
    users_per_group: float = Field(default=USERS_PER_GROUP, gt=0)
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
    items: ItemRecipe | None = None
    alignment: AlignmentRecipe = AlignmentRecipe()
    interest: InterestRecipe = InterestRecipe()
    rqvae: RQVAERecipe = RQVAERecipe()
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
        k = round((n_users / self.users_per_group) ** (1.0 / self.n_levels))
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
