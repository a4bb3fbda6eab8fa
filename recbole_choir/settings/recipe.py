"""How to make a semantic table: every choice in one checked object."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo

from recbole_choir.errors import ConfigError, nearest
from recbole_choir.paths import properties_dir
from recbole_choir.settings.base import refusal
from recbole_choir.settings.layers import merge, read_yaml
from recbole_choir.settings.profiles import ProfileSettings, check_engine
from recbole_choir.settings.soft import SoftRecipe

DEFAULT_RECIPE = "embedded"

#: Users per group aimed at when the number of clusters is chosen (docs/gaps.md C13).
USERS_PER_GROUP = 20

#: Inputs of users and of items that embed text and so need an encoder.
TEXT_INPUTS = ("text", "text_parts", "aligned")
ITEM_TEXT_INPUTS = ("text", "aligned", "blend")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _positive(value: int | list[int] | None) -> int | list[int] | None:
    sizes = value if isinstance(value, list) else [value if value is not None else 1]
    if not sizes or min(sizes) < 1:
        raise ValueError("expected numbers of at least 1")
    return value


def _one_per_level(value: int | list[int] | None, n_levels: int, where: str) -> None:
    if isinstance(value, list) and len(value) != n_levels:
        raise ConfigError(f"{where}: expected one number per level ({n_levels}), got {len(value)}")


def _codewords(
    given: int | list[int] | None, n_levels: int, n_ids: int, ids_per_cluster: float
) -> list[int]:
    """Codewords at each level: as given, else ids_per_cluster ids to a full tuple on average."""
    if isinstance(given, list):
        return list(given)
    k = given if given is not None else round((n_ids / ids_per_cluster) ** (1.0 / n_levels))
    return [k if given is not None else max(2, k)] * n_levels


class AlignmentRecipe(_Part):
    """How content vectors are aligned with co-occurrence (AKT-Rec 3.1.1, Eq. 1; docs/gaps.md A12).

    Args:
        method: ``head`` trains a projection on frozen vectors (the default on a CPU), ``lora`` and
            ``full`` train the encoder itself.
        dim: Width of the aligned vector.
        window: Two items co-occur where one user chose them at most this many positives apart.
        min_count: Pairs that fewer users chose together are dropped. 1 is best for the hit rate of
            held-out pairs on ml-100k and ml-1m; where there are many, ``max_pairs`` keeps the
            frequent ones.
        temperature: tau of the InfoNCE loss.
        lora_rank: Of the adapters that ``lora`` trains.
        epochs, batch_size, learning_rate: Of the training.
        max_pairs: Most frequent pairs kept; null keeps all.
    """

    method: Literal["head", "lora", "full"] = "head"
    dim: int = Field(default=64, ge=2)
    window: int = Field(default=5, ge=1)
    min_count: int = Field(default=1, ge=1)
    temperature: float = Field(default=0.07, gt=0)
    lora_rank: int = Field(default=8, ge=1)
    epochs: int = Field(default=5, ge=1)
    batch_size: int = Field(default=256, ge=2)
    learning_rate: float | None = Field(default=None, gt=0)
    max_pairs: int | None = Field(default=200_000, ge=1)


class InterestRecipe(_Part):
    """How users' interest vectors are learned (AKT-Rec 3.1.1, Eq. 2; docs/gaps.md A11).

    Args:
        engine: ``transformer``: a small transformer over item vectors; ``llm``: a causal language
            model with an interest token.
        model: For ``llm``: a folder or hub name; ``embedded`` is the packaged small model.
        length: Longest history.
        width, layers, heads, dropout: Of the small transformer.
        lora_rank: For ``llm``: rank of the adapters; 0 trains all weights.
        max_tokens: For ``llm``: longest prompt; the oldest events are left out first.
        epochs: At most; null is 30 for ``transformer`` and 2 for ``llm``.
        patience: Epochs without a better held-out loss after which training stops.
        batch_size: Histories or prompts a pass; null is 32 for ``transformer`` and 8 for ``llm``.
        learning_rate: Of AdamW; null is 1e-3 for ``transformer``, and for ``llm`` 2e-4 with
            adapters and 2e-5 for all weights.
        gradient_accumulation: Passes whose gradients are added up.
        max_samples: Training samples drawn with the recipe's seed; null takes all.
    """

    engine: Literal["transformer", "llm"] = "transformer"
    model: str = "embedded"
    length: int = Field(default=50, ge=1)
    width: int = Field(default=64, ge=2)
    layers: int = Field(default=1, ge=1)
    heads: int = Field(default=2, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    lora_rank: int = Field(default=8, ge=0)
    max_tokens: int = Field(default=1024, ge=16)
    epochs: int | None = Field(default=None, ge=1)
    patience: int = Field(default=3, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    learning_rate: float | None = Field(default=None, gt=0)
    gradient_accumulation: int = Field(default=1, ge=1)
    max_samples: int | None = Field(default=200_000, ge=1)


class RQVAERecipe(_Part):
    """Sizes of the RQ-VAE (AKT-Rec 3.1.2, Eq. 3; docs/gaps.md A10).

    Args:
        latent: Width of the quantised latent.
        hidden: Hidden widths of the encoder; the decoder mirrors them.
        beta: Weight of the commitment loss.
        epochs: At most, of 20 to 50 steps each.
        warm_epochs: Epochs of the autoencoder alone, before k-means starts the codebooks.
        batch_size: At most; smaller where an epoch would have fewer than 20 steps.
        learning_rate: Of Adam.
        patience: Epochs without a lower error on held-out vectors after which training stops.
    """

    latent: int = Field(default=32, ge=1)
    hidden: list[Annotated[int, Field(ge=1)]] = Field(default=[256, 128], min_length=1)
    beta: float = Field(default=0.25, ge=0)
    epochs: int = Field(default=200, ge=1)
    warm_epochs: int = Field(default=10, ge=0)
    batch_size: int = Field(default=1024, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    patience: int = Field(default=20, ge=1)


class ItemRecipe(_Part):
    """Semantic ids and content vectors of items (AKT-Rec 3.1; docs/gaps.md A9, A12, A18).

    Args:
        input: ``aligned``: text aligned with co-occurrence (Eq. 1); ``text``: text alone;
            ``behaviour``: SVD of co-occurrence alone; ``blend``: that SVD, with a ridge map from
            text where an item has few events (not in the paper); ``random``: the control.
        fields: Item fields of the prompt; null takes title, category and all other text fields.
        statistics: Also tell the encoder the item's rates, as discrete levels.
        image_field: Item field with the path of a picture, for a multimodal encoder.
        encoder: Encoder of the items, by name; null takes the recipe's.
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
    encoder: str | None = None
    quantizer: Literal["rqvae", "rqkmeans"] = "rqvae"
    n_levels: int = Field(default=3, ge=1, le=16)
    n_clusters: int | list[int] | None = None
    ids_per_cluster: float = Field(default=18, gt=0)
    min_members: int = Field(default=5, ge=1)
    alignment: AlignmentRecipe = AlignmentRecipe()

    _clusters_positive = field_validator("n_clusters")(_positive)

    def model_post_init(self, context: Any, /) -> None:
        """Check what involves two fields."""
        _one_per_level(self.n_clusters, self.n_levels, "recipe.items.n_clusters")

    def clusters_for(self, n_items: int) -> list[int]:
        """Number of codewords at each level for that many items (docs/gaps.md A9)."""
        return _codewords(self.n_clusters, self.n_levels, n_items, self.ids_per_cluster)


class SnapshotRecipe(_Part):
    """When snapshots are taken (docs/gaps.md C16).

    Args:
        n_snapshots: Snapshots at equal steps of the number of interactions, the last one after
            all of them.
        snapshot_times: Explicit times in epoch seconds instead.
    """

    n_snapshots: int = Field(default=4, ge=1)
    snapshot_times: list[float] | None = None

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


class ProfileRecipe(_Part):
    """Who tells users in words, and of what time (ChoirRec, section 4.2; docs/gaps.md C12).

    Args:
        profile_engine: Who writes the profiles: ``template`` (no language model), ``openai``,
            or ``llama_cpp``.
        profile: How a language model writes them; see
            :class:`~recbole_choir.settings.profiles.ProfileSettings`.
        windows_days: Recent and medium window of a profile, in days; what is older is the long one.
    """

    profile_engine: str = "template"
    profile: ProfileSettings = ProfileSettings()
    windows_days: tuple[float, float] = (7, 30)

    @field_validator("windows_days")
    @classmethod
    def _windows_grow(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("expected two lengths in days, the shorter first")
        return value

    def model_post_init(self, context: Any, /) -> None:
        """``profile_engine`` and ``profile.engine`` are one choice, said at either place."""
        mine, theirs = self.profile_engine, self.profile.engine
        if "profile_engine" not in self.model_fields_set:
            mine = theirs
        elif "engine" in self.profile.model_fields_set and mine != theirs:
            raise ConfigError(
                f"recipe.profile.engine: expected '{mine}', as profile_engine says, got '{theirs}'"
            )
        check_engine(mine)
        object.__setattr__(self, "profile_engine", mine)
        object.__setattr__(self, "profile", self.profile.model_copy(update={"engine": mine}))


class VectorRecipe(_Part):
    """What vectors of users and of items share.

    Args:
        svd_dim: Dimensions of the ``behaviour`` input.
        seed: Seed of everything random.
    """

    svd_dim: int = Field(default=48, ge=1)
    seed: int = Field(default=0, ge=0)


class InputRecipe(ProfileRecipe, VectorRecipe):
    """What users are grouped by (ChoirRec, section 4.2; AKT-Rec Eq. 2; docs/gaps.md C17, C18).

    Args:
        input: What users are grouped by: ``text`` (the written profile), ``text_parts`` (names of
            what they bought), ``aligned`` (the written profile aligned with behaviour),
            ``behaviour`` (SVD of user x item), ``interest`` (a sequence model over item vectors,
            AKT-Rec Eq. 2; needs ``items``), ``id_embedding`` (vectors of a trained model) or
            ``random`` (the control).
        text_parts_fields: Item fields whose names make the ``text_parts`` input.
        aligned_text: What the ``aligned`` input aligns: ``profile`` (as ``text``), ``parts`` (as
            ``text_parts``) or ``both`` side by side, which knows most on every dataset tried.
        id_embedding_path: File with the vectors of the ``id_embedding`` input.
        alignment: Of the ``aligned`` user input.
        interest: Of the ``interest`` user input.
    """

    input: Literal[
        "text", "text_parts", "aligned", "behaviour", "interest", "id_embedding", "random"
    ] = "text"
    text_parts_fields: list[str] = Field(default=["category", "title"], min_length=1)
    aligned_text: Literal["profile", "parts", "both"] = "both"
    id_embedding_path: str | None = None
    alignment: AlignmentRecipe = AlignmentRecipe()
    interest: InterestRecipe = InterestRecipe()


class GroupingRecipe(InputRecipe):
    """How vectors of users become codes (ChoirRec, section 4.3; docs/gaps.md C13).

    Args:
        quantizer: ``rqkmeans`` (ChoirRec) or ``rqvae`` (AKT-Rec).
        n_levels: Depth M of the hierarchical group id; the paper's 3.
        n_clusters: Codewords per level, one number or one per level; null chooses
            ``(users / users_per_group)^(1 / M)``.
        users_per_group: 20, as in ChoirRec; AKT-Rec has about 17.
        codebooks: ``once`` fits the codebooks on the first snapshot, so that ids keep their
            meaning; ``per_snapshot`` fits them again (for studies).
        rqvae: Sizes of the RQ-VAE, for users and items.
    """

    quantizer: Literal["rqkmeans", "rqvae"] = "rqkmeans"
    n_levels: int = Field(default=3, ge=1, le=16)
    n_clusters: int | list[int] | None = None
    users_per_group: float = Field(default=USERS_PER_GROUP, gt=0)
    codebooks: Literal["once", "per_snapshot"] = "once"
    rqvae: RQVAERecipe = RQVAERecipe()

    _clusters_positive = field_validator("n_clusters")(_positive)

    def model_post_init(self, context: Any, /) -> None:
        """Check what involves two fields."""
        super().model_post_init(context)
        _one_per_level(self.n_clusters, self.n_levels, "recipe.n_clusters")

    def clusters_for(self, n_users: int) -> list[int]:
        """Number of codewords at each level for that many users (docs/gaps.md C13)."""
        return _codewords(self.n_clusters, self.n_levels, n_users, self.users_per_group)


class ItemInputRecipe(VectorRecipe):
    """What items are described by (AKT-Rec, section 3.1).

    Args:
        items: Also make semantic ids of items; null makes none (ChoirRec needs none).
    """

    items: ItemRecipe | None = None


class Recipe(SnapshotRecipe, ItemInputRecipe, GroupingRecipe):
    """Every choice that shapes a semantic table: the parts above, and what joins them.

    A stage takes its own part and cannot read the rest.

    Args:
        encoder: ``embedded`` (MiniLM, installed with the package) or any sentence-transformers
            name or path.
        truncate_dim: Keep this many leading dimensions of an embedding, then normalise; all if
            null.
        min_members: A group with fewer members backs off to its prefix.
        agg_level: ``backoff`` or a fixed level of the prefix whose group a user reads.
        top_categories: Categories K_cat in a group's sequence.
        sequence_length: Items in a group's sequence.
        soft: Also make soft groups (:class:`~recbole_choir.settings.soft.SoftRecipe`);
            null makes none.

    References:
        ChoirRec, sections 4.2 and 4.3; docs/gaps.md C12, C13, C16 to C19.
    """

    encoder: str = "embedded"
    truncate_dim: int | None = Field(default=None, ge=1)
    min_members: int = Field(default=20, ge=1)
    agg_level: int | Literal["backoff"] = "backoff"
    top_categories: int = Field(default=10, ge=1)
    sequence_length: int = Field(default=50, ge=1)
    soft: SoftRecipe | None = None

    def model_post_init(self, context: Any, /) -> None:
        """Check what involves two fields."""
        super().model_post_init(context)
        if isinstance(self.agg_level, int) and not 1 <= self.agg_level <= self.n_levels:
            raise ConfigError(
                f"recipe.agg_level: expected 'backoff' or 1..{self.n_levels}, got {self.agg_level}"
            )

        if self.input == "interest" and self.items is None:
            raise ConfigError(
                "recipe.input: 'interest' is learned from item vectors: expected items to be set "
                "(recipe akt does), got items: null"
            )


def needs_encoder(recipe: Recipe) -> bool:
    """Whether the users' input, or a space of their soft groups, embeds text."""
    return recipe.input in TEXT_INPUTS or (recipe.soft is not None and recipe.soft.reads_text)


def items_need_encoder(recipe: Recipe) -> bool:
    """Whether the items' input embeds text or pictures."""
    return recipe.items is not None and recipe.items.input in ITEM_TEXT_INPUTS


def load_recipe(
    source: Recipe | Mapping[str, Any] | str | Path = DEFAULT_RECIPE,
    overrides: Mapping[str, Any] | None = None,
) -> Recipe:
    """Read a recipe.

    Args:
        source: A recipe, its fields as a mapping, the path of a YAML file, or the name of one in
            ``properties/semantic``.
        overrides: Fields that replace those of the source. Of a part (``items``, ``alignment``,
            ``interest``, ``rqvae``) single fields may be given, the others stay as they are:
            ``{"items": {"input": "random"}}``. ``None`` for a whole part leaves it out.

    Raises:
        ConfigError: There is no such recipe, a key is unknown, or a value is wrong.
    """
    if isinstance(source, Recipe):
        fields, where = source.model_dump(), "recipe"
    elif isinstance(source, Mapping):
        fields, where = dict(source), "recipe"
    else:
        path = _find(str(source))
        fields, where = read_yaml(path, "recipe"), f"recipe {path.name}"
    fields = merge(fields, dict(overrides or {}))
    _check_keys(fields, Recipe, where)
    try:
        return Recipe(**fields)
    except ValidationError as error:
        lines: dict[str, str] = {}
        for found in error.errors():
            path_of_key, line = _line(found, where)
            lines.setdefault(path_of_key, line)  # of a union each branch complains
        raise ConfigError.of(lines.values()) from None


def _line(found: Any, where: str) -> tuple[str, str]:
    """One of pydantic's errors: the key, and one line about it."""
    message = str(found["msg"]).removeprefix("Value error, ")
    key, field = _place(found["loc"])
    if not key or isinstance(found.get("ctx", {}).get("error"), ConfigError):
        return key or message, message  # it says itself where
    if found["type"] == "value_error" or field is None:
        wants = f"{message}, got {found['input']!r}"
    else:
        wants = refusal(field, found["input"])
    # an address may hold a password
    return key, f"{where}.{key}: {message if key.endswith('base_url') else wants}"


def _check_keys(fields: Mapping[str, Any], model: type[BaseModel], where: str) -> None:
    """Refuse a key that nothing reads, in the parts as well."""
    known = model.model_fields
    for key, value in fields.items():
        if key not in known:
            raise ConfigError(
                f"{where}: unknown key '{key}'{nearest(str(key), known)}; known: {', '.join(known)}"
            )
        part = part_of(known[key])
        if part is not None and isinstance(value, Mapping):
            _check_keys(value, part, f"{where}.{key}")


def part_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a field that holds a part of a recipe."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _place(location: tuple[int | str, ...]) -> tuple[str, FieldInfo | None]:
    """``items.n_clusters`` and its field, without the branches of a union and list entries."""
    model: type[BaseModel] | None = Recipe
    field: FieldInfo | None = None
    path: list[str] = []
    for step in location:
        if model is None or step not in model.model_fields:
            break
        path.append(str(step))
        field = model.model_fields[str(step)]
        model = part_of(field)
    return ".".join(path), field


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
