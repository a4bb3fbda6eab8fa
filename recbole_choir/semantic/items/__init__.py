"""Inputs to the clustering of items: one file each, one interface (AKT-Rec 3.1.1)."""

from __future__ import annotations

from recbole_choir.errors import ConfigError, nearest
from recbole_choir.semantic.encoders.encoder import Encoder
from recbole_choir.semantic.items.aligned import AlignedItems
from recbole_choir.semantic.items.base import ItemInput, ItemVectors, item_ids_of
from recbole_choir.semantic.items.behaviour import BehaviourItems
from recbole_choir.semantic.items.blend import BlendedItems
from recbole_choir.semantic.items.content import ContentItems
from recbole_choir.semantic.items.prompts import ItemPrompts
from recbole_choir.semantic.items.random import RandomItems
from recbole_choir.settings.recipe import ItemInputRecipe, ItemRecipe

__all__ = [
    "AlignedItems",
    "BehaviourItems",
    "BlendedItems",
    "ContentItems",
    "ItemInput",
    "ItemPrompts",
    "ItemVectors",
    "RandomItems",
    "item_ids_of",
    "make_item_input",
]

INPUTS = ("aligned", "text", "behaviour", "blend", "random")


def make_item_input(
    recipe: ItemInputRecipe, encoder: Encoder | None, show_progress: bool = True
) -> ItemInput:
    """The item input that a recipe names.

    Args:
        recipe: Its ``items``, ``svd_dim`` and ``seed``.
        encoder: For ``text``, ``aligned`` and ``blend``.
        show_progress: Show progress bars.

    Raises:
        ConfigError: There is no such input, the recipe has no ``items``, or an encoder is missing.
    """
    items = recipe.items
    if items is None:
        raise ConfigError("recipe.items: expected settings of an item input, got none")
    if items.input == "random":
        return RandomItems(seed=recipe.seed)
    if items.input == "behaviour":
        return BehaviourItems(recipe.svd_dim, recipe.seed)
    if items.input not in INPUTS:
        raise ConfigError(
            f"items.input: expected one of {', '.join(INPUTS)}, got '{items.input}'"
            f"{nearest(items.input, INPUTS)}"
        )
    if encoder is None:
        raise ConfigError(f"items.input '{items.input}': expected an encoder, got none")
    content = _content(items, encoder, show_progress)
    if items.input == "aligned":
        return AlignedItems(content, items.alignment, recipe.seed, show_progress=show_progress)
    if items.input == "blend":
        return BlendedItems(BehaviourItems(recipe.svd_dim, recipe.seed), content, recipe.seed)
    return content


def _content(items: ItemRecipe, encoder: Encoder, show_progress: bool) -> ContentItems:
    prompts = ItemPrompts(items.fields, items.statistics, items.image_field)
    return ContentItems(encoder, prompts, show_progress=show_progress)
