"""Inputs to grouping: one file each, one interface."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from recbole_choir.errors import ConfigError, nearest
from recbole_choir.semantic.encoders.encoder import Encoder
from recbole_choir.semantic.frames.frames import USER_ID, Frames
from recbole_choir.semantic.inputs.aligned import AlignedInput
from recbole_choir.semantic.inputs.base import GroupingInput, Vectors
from recbole_choir.semantic.inputs.behaviour import BehaviourInput
from recbole_choir.semantic.inputs.id_embedding import IdEmbeddingInput
from recbole_choir.semantic.inputs.interest import InterestInput
from recbole_choir.semantic.inputs.random import RandomInput
from recbole_choir.semantic.inputs.text import TextInput
from recbole_choir.semantic.inputs.text_parts import TextPartsInput
from recbole_choir.semantic.items.base import ItemVectors
from recbole_choir.semantic.profiles.template_engine import make_engine
from recbole_choir.semantic.profiles.verbalize import verbalize
from recbole_choir.settings.profiles import TEMPLATE
from recbole_choir.settings.recipe import TEXT_INPUTS, InputRecipe, ProfileRecipe

__all__ = [
    "AlignedInput",
    "BehaviourInput",
    "GroupingInput",
    "IdEmbeddingInput",
    "InterestInput",
    "RandomInput",
    "TextInput",
    "TextPartsInput",
    "Vectors",
    "make_input",
]

INPUTS = ("text", "text_parts", "aligned", "behaviour", "interest", "id_embedding", "random")


def make_input(
    recipe: InputRecipe,
    encoder: Encoder | None,
    profiles: Callable[[Frames], pd.Series] | None = None,
    show_progress: bool = True,
    *,
    item_vectors: Callable[[Frames], ItemVectors] | None = None,
    cache_dir: str | Path | None = None,
    device: str | None = None,
) -> GroupingInput:
    """The grouping input that a recipe names.

    Args:
        recipe: Its ``input`` and the fields that belong to it.
        encoder: For ``text``, ``text_parts`` and ``aligned``.
        profiles: For ``text`` and ``aligned``: frames to a series of texts with user ids as its
            index; by default what the recipe's profile engine writes.
        show_progress: Show progress bars.
        item_vectors: For ``interest``: the fitted item input's ``transform``.
        cache_dir: Where an input that is trained keeps its weights; nowhere if None.
        device: Torch device of an input that is trained.

    Raises:
        ConfigError: There is no such input, or an encoder or path that it needs is missing.
    """
    if recipe.input in TEXT_INPUTS:
        if encoder is None:
            raise ConfigError(f"input '{recipe.input}': expected an encoder, got none")
        return _text_input(recipe, encoder, profiles, show_progress, cache_dir)
    if recipe.input == "behaviour":
        return BehaviourInput(recipe.svd_dim, recipe.seed)
    if recipe.input == "id_embedding":
        if recipe.id_embedding_path is None:
            raise ConfigError("input 'id_embedding': expected id_embedding_path, got none")
        return IdEmbeddingInput(recipe.id_embedding_path)
    if recipe.input == "random":
        return RandomInput(seed=recipe.seed)
    if recipe.input == "interest":
        if item_vectors is None:
            raise ConfigError("input 'interest': expected vectors of items, got none")
        return InterestInput(
            item_vectors,
            recipe.interest,
            recipe.seed,
            cache_dir=cache_dir,
            device=device,
            show_progress=show_progress,
        )
    raise ConfigError(
        f"input: expected one of {', '.join(INPUTS)}, got '{recipe.input}'"
        f"{nearest(recipe.input, INPUTS)}"
    )


def _text_input(
    recipe: InputRecipe,
    encoder: Encoder,
    profiles: Callable[[Frames], pd.Series] | None,
    show_progress: bool,
    cache_dir: str | Path | None,
) -> GroupingInput:
    text = TextInput(encoder, profiles or _written_by(recipe), show_progress=show_progress)
    parts = TextPartsInput(encoder, recipe.text_parts_fields, show_progress=show_progress)
    if recipe.input == "text":
        return text
    if recipe.input == "text_parts":
        return parts
    sources: dict[str, list[GroupingInput]] = {
        "profile": [text],
        "parts": [parts],
        "both": [text, parts],
    }
    return AlignedInput(
        sources[recipe.aligned_text],
        recipe.alignment,
        recipe.seed,
        encoder=encoder,
        cache_dir=cache_dir if cache_dir is not None else encoder.cache_dir,
        show_progress=show_progress,
    )


def _written_by(recipe: ProfileRecipe) -> Callable[[Frames], pd.Series]:
    if recipe.profile_engine != TEMPLATE:
        raise ConfigError(
            f"profiles: profile_engine '{recipe.profile_engine}' asks a language "
            "model: expected profiles, got none"
        )
    engine = make_engine(recipe.profile_engine)

    def write(frames: Frames) -> pd.Series:
        facts = verbalize(frames, recipe.windows_days, windows_end=recipe.profile.windows_end)
        return pd.Series(engine.write(facts), index=facts[USER_ID].to_numpy(object), dtype=object)

    return write
